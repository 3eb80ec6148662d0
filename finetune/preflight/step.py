"""The step that a trace runs: the model as the trainer prepares it, forward, loss, backward, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune.preflight.autocast import emulated_autocast, replaced
from finetune.preflight.kernels import Kernels
from finetune.preflight.offload import Offload
from finetune.preflight.optimisers import make_optimiser
from finetune.preflight.tape import BATCH, CACHE, CHECKPOINTS, GRADIENTS, HEAD, LAYER, OPTIMISER, WORKSPACE, Recorder
from finetune.spec import RunSpec, feed_forward, varlen
from finetune.spec.linear_loss import linear_loss
from finetune.spec.loss import IGNORED, fused_loss, next_token_loss

if TYPE_CHECKING:
    from peft import PeftModel

FORWARD, LAYER_FORWARD = "forward", "layer forward"
LOSS_BACKWARD, LAYER_BACKWARD, OPTIMISER_STEP = "loss backward", "layer backward", "optimiser step"


@dataclass(frozen=True)
class Loop:
    """What a training loop does with its tensors. The defaults are ours; others are for runs of other people's loops.

    `moved`: the model was made in host memory and moved to the card whole.
    `keeps_output`: the model's output stays in a variable through the backward pass, and its logits with it.
    `model_loss`: the model computes its loss itself, in its forward pass, by this function of logits and labels.
    `clips`: gradients are clipped. `steps`: as many are run; the second finds the optimiser's state in place.
    """

    moved: bool = False
    keeps_output: bool = False
    model_loss: Callable[..., torch.Tensor] | None = None
    clips: bool = True
    steps: int = 2


@dataclass(frozen=True)
class Batch:
    """One micro batch: `rows` of `tokens`, some `padded`, or `packed` of several shorter ones. A pair of preferences is
    two rows. Where the model answers prompts itself, the first `prompt_tokens` of a row are the prompt."""

    rows: int
    tokens: int
    padded: bool = False
    packed: bool = False
    prompt_tokens: int = 0

    def tensors(self, device: str, *, by_length: bool = False) -> dict[str, torch.Tensor]:
        """What the collator would make of it (rows, tokens): the last row is a token short where `padded`, and each
        pack has two rows of half its length, which are said where batches go `by_length`."""
        ids = torch.ones((self.rows, self.tokens), dtype=torch.long, device=device)
        batch = {"input_ids": ids, "labels": ids.clone()}
        if self.packed:
            half = -(-self.tokens // 2)
            batch["position_ids"] = ids.cumsum(-1).sub_(1).remainder_(half)
            lengths = torch.tensor([[half, self.tokens - half]] * self.rows, device=device)
            return batch | ({varlen.ROW_LENGTHS: lengths} if by_length else {})
        mask = ids.clone()
        if self.padded:
            mask[-1, -1:].zero_()
            batch["labels"][-1, -1:].fill_(IGNORED)
        return batch | {"attention_mask": mask}


class Step:
    """Runs micro batches and updates of a described run under a recorder. This one is supervised fine-tuning's; other
    methods' are made from it (preference.py, rollout.py)."""

    outputs: ClassVar[tuple[str, ...]] = ("log_probs", "entropy", "is_top1")
    """What the trainer asks of TRL's fused head for each token."""

    def __init__(self, spec: RunSpec, model: PeftModel, recorder: Recorder, loop: Loop) -> None:
        self.spec, self.model, self.recorder, self.loop = spec, model, recorder, loop
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._backward = False
        self.cached: Callable[[], Iterable[torch.Tensor]] = tuple
        """Keys and values that are kept while completions are sampled."""
        self._fused = spec.config.training.loss_kernel == "fused_linear"
        self._device = self.trained[0].device.type
        _prepare(spec, model, self._recomputing, self.outputs)
        if loop.model_loss:
            model.get_base_model().loss_function = loop.model_loss
        self._watch_layers()

    def run(self, batch: Batch) -> None:
        """`loop.steps` micro steps and updates. Where a run accumulates, the gradients of one micro step stay for the
        next, so that the second has them and the optimiser's state beside it, as every later one will."""
        accumulates = self.spec.config.training.gradient_accumulation_steps > 1
        optimiser = None
        with self.kernels(), replaced(feed_forward, recomputing=self._recomputing), self.recorder:
            for step in range(self.loop.steps):
                self.recorder.tape.last_update = len(self.recorder.tape.events)
                self._micro_step(batch)
                optimiser = self._update(optimiser)
                if not accumulates or step == self.loop.steps - 1:
                    for parameter in self.trained:
                        parameter.grad = None

    def _update(self, optimiser: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
        with self.recorder.during(OPTIMISER_STEP, OPTIMISER):
            if self.loop.clips:
                torch.nn.utils.clip_grad_norm_(self.trained, self.spec.config.training.max_grad_norm)
            optimiser = optimiser or make_optimiser(self.spec, self.trained, self.recorder)
            optimiser.step()
        return optimiser

    def _micro_step(self, batch: Batch) -> None:
        recorder = self.recorder
        recorder.tape.micro_steps += 1
        with recorder.during("batch", BATCH):
            tensors = self._tensors(batch)
        with self._offloading():
            with recorder.during(FORWARD, LAYER):
                loss, kept = self._forward(tensors)
            self._backward = True
            with recorder.during(LOSS_BACKWARD, HEAD):
                self._workspace("backward")
                loss.backward()
            self._backward = False
        del kept
        recorder.hold((parameter.grad for parameter in self.trained), GRADIENTS)

    def _tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        return batch.tensors(self._device, by_length=self.spec.attention == varlen.NAME)

    def _forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        labels = batch.pop("labels")
        self._workspace("forward")
        with self._autocast():
            if self.loop.model_loss:
                return self.model(**batch, labels=labels, use_cache=False).loss, None
            if self.spec.linear_loss:
                return linear_loss(self.model.get_base_model(), {**batch, "labels": labels}, 1).loss, None
            output = self.score({**batch, "labels": labels}) if self._fused else self.model(**batch, use_cache=False)
        self.recorder.enter(FORWARD, HEAD)
        if self.spec.autocast:
            output = _float_outputs(output)  # accelerate does, under mixed precision
        # The count comes from the trainer, as a number that is there already.
        loss = fused_loss(output, 1) if self._fused else next_token_loss(output.logits, labels, 1)
        return loss, output if self.loop.keeps_output else None

    def score(self, batch: dict[str, torch.Tensor]) -> Any:
        """What TRL's fused head says of every token of a batch that has a label."""
        with self._autocast():
            return self.model(**batch, fused_lm_head=True, use_cache=False)

    @contextmanager
    def without_gradients(self, phase: str) -> Iterator[None]:
        """The model as it answers and scores: nothing is kept for a backward pass, so that nothing is checkpointed."""
        kept = [module for module in self.model.modules() if getattr(module, "gradient_checkpointing", False)]
        for module in kept:
            module.gradient_checkpointing = False
        with self.recorder.during(phase, LAYER), torch.no_grad():
            yield
        for module in kept:
            module.gradient_checkpointing = True

    def _autocast(self) -> AbstractContextManager[Any]:
        return self.autocast(self.spec.autocast)

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """Autocast to `dtype`, none where it is None, as the run's device does it."""
        if self._device == "meta":
            return emulated_autocast(dtype, self.spec.device.kind)
        return torch.autocast(self._device, dtype) if dtype else nullcontext()

    def kernels(self) -> AbstractContextManager[Any]:
        """Stand-ins for the kernels of the run's device, none where the step runs on real tensors."""
        device = self.spec.device
        return Kernels(device.kind, device.capability, self.recorder.tape) if self._device == "meta" else nullcontext()

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """A recomputed layer computes as in its forward pass. Torch leaves function modes when `backward` begins."""
        with self.kernels(), self._autocast():
            yield

    def _offloading(self) -> AbstractContextManager[Any]:
        if self.spec.config.training.activation_offloading:
            return Offload(self.model)
        return nullcontext()

    def _workspace(self, thread: str) -> None:
        """The first matrix product of a thread gives it a cuBLAS handle and a workspace: autograd has its own."""
        if self.recorder.workspace_bytes and thread not in self.recorder.workspaces:
            self.recorder.workspaces.add(thread)
            self.recorder.lasting(self.recorder.workspace_bytes, WORKSPACE, f"cuBLAS in {thread}")

    def _watch_layers(self) -> None:
        layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        for layer in layers:
            layer.register_forward_pre_hook(self._enter_layer)
            layer.register_forward_hook(self._leave_layer)

    def _enter_layer(self, layer: torch.nn.Module, args: tuple) -> None:
        if self._backward:
            return
        if not torch.is_grad_enabled():
            self.recorder.enter(self.recorder.phase, LAYER)
            return
        self._checkpoint(args[0])
        self.recorder.enter(LAYER_FORWARD, LAYER)

    def _leave_layer(self, layer: torch.nn.Module, args: tuple, output: Any) -> None:
        if self._backward:
            return
        if not torch.is_grad_enabled():
            self.recorder.hold(self.cached(), CACHE)
            self.recorder.enter(self.recorder.phase, HEAD)
            return
        hidden = output[0] if isinstance(output, tuple) else output
        self._checkpoint(hidden)
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: self.recorder.enter(LAYER_BACKWARD, LAYER))
        self.recorder.enter(FORWARD, HEAD)

    def _checkpoint(self, hidden: torch.Tensor) -> None:
        if self.spec.config.training.recomputes:
            self.recorder.hold([hidden], CHECKPOINTS)


def _prepare(spec: RunSpec, model: PeftModel, recomputing: Any, outputs: tuple[str, ...]) -> None:
    """What the trainer does to a model before it trains."""
    from trl.trainer.utils import add_fused_lm_head

    model.train()
    base = model.get_base_model()
    if spec.config.training.recomputes:
        options = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), recomputing())}
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable(options)
        model.enable_input_require_grads()
    if "forward" not in vars(base):
        add_fused_lm_head(base, outputs=outputs)


def _float_outputs(output: Any) -> Any:
    from accelerate.utils.operations import convert_to_fp32

    return convert_to_fp32(output)
