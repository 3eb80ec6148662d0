"""The step of a method that learns from its own completions, as TRL's RLOO and GRPO trainers take it.

An update begins with a rollout (`_generate_and_score_completions`): all its completions are sampled in one call,
without autocast, then scored a micro batch at a time, by the policy (RLOO) and by the reference, which is the policy
with its adapter off. Then every micro batch goes forward and backward. Only completions have labels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, ClassVar

import torch
from torch.overrides import TorchFunctionMode
from trl.trainer import utils

from finetune.preflight.autocast import replaced
from finetune.preflight.preference import REFERENCE
from finetune.preflight.sampling import sample
from finetune.preflight.step import FORWARD, Batch, Step
from finetune.preflight.tape import BATCH, HEAD
from finetune.spec.loss import IGNORED

OLD = "old log-probabilities"


class RolloutStep(Step):
    """Runs updates that begin with a rollout. The first has one micro batch; the last, where the run accumulates, two:
    gradients are there at the second, and not yet when completions are sampled."""

    outputs: ClassVar[tuple[str, ...]] = ("log_probs", "entropy")

    def run(self, batch: Batch) -> None:
        """`loop.steps` updates."""
        tape, passes = self.recorder.tape, self.spec.config.training.gradient_accumulation_steps
        optimiser = None
        with self.kernels(), self.recorder:
            for step in range(self.loop.steps):
                tape.last_update = len(tape.events)
                micro_steps = min(passes, 1 + (step == self.loop.steps - 1))
                before, tape.flops = tape.flops, 0
                decoding = self._roll_out(batch, passes)
                # Of the rollout's operations, those that fall to the micro batches that are traced.
                tape.flops = before + tape.flops * micro_steps // passes
                tape.decoding_flops += decoding * micro_steps // passes
                for _ in range(micro_steps):
                    self._micro_step(batch)
                optimiser = self._update(optimiser)
                for parameter in self.trained:
                    parameter.grad = None

    def _roll_out(self, batch: Batch, passes: int) -> int:
        """Samples and scores the completions of an update; returns the operations of decoding."""
        training, tape = self.spec.config.training, self.recorder.tape
        rows, completion = passes * batch.rows, batch.tokens - batch.prompt_tokens
        # The completions of one prompt alone leave nothing to pad it to.
        padded = batch.padded and rows > self.spec.config.rollout.num_generations
        with self.recorder.during("batch", BATCH):
            ids, mask = _prompts(rows, batch.prompt_tokens, padded, self._device)
        ids, decoding = sample(self, ids, mask if padded else None, completion)
        with self.recorder.during("batch", BATCH):
            mask = _of_completed(mask, completion, batch.padded)
            # While they are scored, they are there in parts too, and the last rollout until this one is done.
            beside = getattr(self, "_rollout", None), ids.clone(), mask.clone()
        self._rollout = {"input_ids": ids, "attention_mask": mask}
        self._completion, sampled = completion, tape.flops
        if training.method == "rloo":
            self._rollout["old"] = self._scores(OLD, batch, nullcontext())
        if training.pull:
            self._rollout["reference"] = self._scores(REFERENCE, batch, self.model.disable_adapter())
        del beside
        tape.flops = sampled + (tape.flops - sampled) * passes
        return decoding

    def _scores(self, phase: str, batch: Batch, adapter: AbstractContextManager[Any]) -> torch.Tensor:
        """Log-probabilities of all completions (rows, tokens); one micro batch is read, which no other outdoes."""
        with self.without_gradients(phase), adapter:
            output = self.score(self._tensors(batch))
            return output.log_probs.new_empty((len(self._rollout["input_ids"]), self._completion))

    def _tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The last micro batch of the rollout, in which rows are padded if they are in any."""
        ids, mask = (self._rollout[name][-batch.rows :].clone() for name in ("input_ids", "attention_mask"))
        labels = ids.masked_fill(mask == 0, IGNORED)
        labels[:, : -self._completion] = IGNORED
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        self._workspace("forward")
        output = self.score(batch)
        self.recorder.enter(FORWARD, HEAD)
        new = output.log_probs[:, -self._completion :]
        loss = -torch.exp(new - new.detach())
        if self.spec.config.training.method == "grpo" and self.spec.config.training.pull:
            further = self._rollout["reference"][-len(new) :] - new
            loss = loss + self.spec.config.training.pull * (torch.exp(further) - further - 1)
        return loss.mean(), None

    def score(self, batch: dict[str, torch.Tensor]) -> Any:
        """As ever; on a card the head reads only tokens that have a label."""
        with ExitStack() as stack:
            if self._device == "meta" and self.spec.device.kind == "cuda":
                stack.enter_context(replaced(utils, _use_triton=lambda device: True))
                stack.enter_context(Picked(len(batch["input_ids"]) * self._completion))
            return super().score(batch)


class Picked(TorchFunctionMode):
    """While entered, `x[mask]` of tensors without contents has `count` rows: no mask without contents says how many."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool:
            return _Pick.apply(args[0], args[1].ndim, self._count)
        return func(*args, **(kwargs or {}))


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dims: int, count: int) -> torch.Tensor:
        ctx.shape = x.shape
        return x.new_empty((count, *x.shape[dims:]))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        return gradient.new_zeros(ctx.shape), None, None


def _prompts(rows: int, tokens: int, padded: bool, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of equal length and their mask (rows, tokens); where `padded`, the last is a token shorter."""
    ids = torch.ones((rows, tokens), dtype=torch.long, device=device)
    mask = ids.clone()
    if padded:
        mask[-1, :1].zero_()
    return ids, mask


def _of_completed(mask: torch.Tensor, tokens: int, padded: bool) -> torch.Tensor:
    """The mask of prompts with `tokens` of a completion behind each; where `padded`, the last is a token shorter."""
    mask = torch.cat([mask, mask.new_ones((len(mask), tokens))], dim=1)
    if padded:
        mask[-1, -1:].zero_()
    return mask
