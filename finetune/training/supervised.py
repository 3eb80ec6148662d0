"""Supervised fine-tuning: TRL's SFTTrainer on rows that are already tokenised, masked and packed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from trl import SFTTrainer

from finetune.spec.linear_loss import linear_loss
from finetune.spec.loss import IGNORED, next_token_loss
from finetune.training.evaluation import evaluate_model, largest_batch
from finetune.training.noise import NoiseMeter
from finetune.training.streamed import Streamed
from finetune.training.update import MicroBatch
from finetune.training.watched import Shape, Watched

if TYPE_CHECKING:
    from finetune.data import Encoded
    from finetune.data.streaming import Stream


class SupervisedTrainer(Watched, SFTTrainer):
    """SFTTrainer with a choice of loss kernel, held-out loss per token, and a count of what was learned from.

    `noise` estimates the gradient noise scale of a run that accumulates, None where nothing does. Where there is a
    `stream`, the training data set is that of its first window, and is not trained on.
    """

    def __init__(self, *args: Any, stream: Stream | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.streamed = Streamed(self, stream) if stream else None
        if self.streamed:
            self.add_before_reporters(self.streamed)
        accumulates = self.args.gradient_accumulation_steps > 1
        self.noise = NoiseMeter(self) if self.spec.config.training.noise_scale and accumulates else None
        if self.noise:
            self.add_before_reporters(self.noise)

    def get_train_dataloader(self) -> Any:
        """Batches of the training rows."""
        return self.streamed.batches() if self.streamed else super().get_train_dataloader()

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; counts the batch."""
        labels = inputs["labels"]
        trained = (labels != IGNORED).sum()
        self.count(inputs.pop("rows").sum(), inputs.pop("tokens").sum(), trained)
        loss = self.nothing()
        if self.takes_next():
            with (
                self.memory.follow(self.model, self.optimizer, inputs["input_ids"].numel()) as followed,
                self.compiled.training() if self.compiled and not followed else nullcontext(),
            ):
                loss = super().training_step(model, inputs, *args, **kwargs)
            if self.noise and not self.processes.alone:
                self.noise.keep_norm()
        if self.noise:
            self.noise.after_micro_batch(labels, trained)
        return loss

    def share(self, piece: dict[str, Any], whole: dict[str, Any]) -> None:
        """The loss is a sum over trained tokens, divided by those of the whole update."""

    def trained(self, inputs: dict[str, Any]) -> torch.Tensor:
        """See `Guarded`. The first token has nothing before it to predict it from."""
        return (inputs["labels"][:, 1:] != IGNORED).sum()

    def metric_weight(self, inputs: dict[str, Any], name: str) -> torch.Tensor:
        """Entropy and accuracy are means over trained tokens."""
        return self.trained(inputs)

    def mean_loss(self, micro: MicroBatch, count: torch.Tensor | int | None) -> torch.Tensor:
        """Per trained token of the micro batch."""
        return micro.loss * (1 if count is None else count) / self.trained(micro.inputs).clamp(min=1)

    def count_anew(self, micro_batches: list[MicroBatch]) -> torch.Tensor:
        """Trained tokens that are left."""
        return self.processes.total(sum(self.trained(micro.kept(self)) for micro in micro_batches))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Negative log-likelihood per trained token of the whole effective batch."""
        if self.spec.linear_loss and not return_outputs:
            scored = linear_loss(self.model.get_base_model(), inputs, num_items_in_batch)
            for name in ("mean_token_accuracy", "entropy"):
                self._metrics["train"][name].append(float(getattr(scored, name)))
            return scored.loss
        if self.spec.config.training.loss_kernel == "fused_linear":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)
        loss = next_token_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def held_out(self, rows: Sequence[Encoded]) -> dict[str, float]:
        """Held-out loss per trained token; each process scores its share of the batches."""
        return {"loss": evaluate_model(self.spec, self.model, rows, self.data_collator, self.on_split, self.processes)}

    def largest_held_out(self) -> tuple[list[Encoded], Shape]:
        """See `Watched`."""
        rows = largest_batch(self.spec, self.eval_dataset)
        return rows, Shape("evaluation", len(rows), len(rows[0].input_ids))
