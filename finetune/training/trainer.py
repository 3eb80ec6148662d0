"""The trainer: TRL's SFTTrainer on rows that are already tokenised, masked and packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import PrinterCallback
from trl import SFTTrainer

from finetune.spec import RunSpec
from finetune.training.evaluation import IGNORED, held_out_loss

if TYPE_CHECKING:
    from peft import PeftModel

    from finetune.data import LoadedData


class Trainer(SFTTrainer):
    """SFTTrainer with a choice of loss kernel, held-out loss per token, and a count of what was learned from.

    `rows_seen` and `tokens_seen` count rows and tokens without padding, `trained_seen` those with a label. They are
    tensors on the model's device, so that counting never waits for it.
    """

    def __init__(
        self, *args: Any, loss_kernel: str, held_out: list, autocast: torch.dtype | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.loss_kernel = loss_kernel
        self.held_out = held_out
        self.autocast_dtype = autocast
        self.remove_callback(PrinterCallback)  # the progress bar says it better
        zero = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.rows_seen, self.tokens_seen, self.trained_seen = zero.clone(), zero.clone(), zero.clone()

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; counts the batch."""
        self.rows_seen += inputs.pop("rows").sum()
        self.tokens_seen += inputs.pop("tokens").sum()
        self.trained_seen += (inputs["labels"] != IGNORED).sum()
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Negative log-likelihood per trained token of the whole effective batch."""
        if self.loss_kernel == "fused_linear":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)
        logits = outputs.logits[:, :-1].float()
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        count = (labels != IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = loss / count.to(loss.device).clamp(min=1)
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out loss per trained token over all rows: transformers' own average weighs batches, not tokens."""
        loss = held_out_loss(
            self.model,
            self.held_out,
            collate=self.data_collator,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=self.autocast_dtype,
        )
        metrics = {f"{metric_key_prefix}_loss": loss}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def build_trainer(spec: RunSpec, model: PeftModel, data: LoadedData, checkpoints: Path) -> Trainer:
    """The trainer for a described run. `checkpoints` is the directory it saves to."""
    with adapter_untouched(model):
        return Trainer(
            model=model,
            args=spec.trainer_arguments(checkpoints),
            data_collator=data.collator,
            train_dataset=data.train_dataset,
            processing_class=data.tokenizer,
            loss_kernel=spec.config.training.loss_kernel,
            held_out=data.eval.rows if data.eval else [],
            autocast=spec.autocast,
        )


@contextmanager
def adapter_untouched(model: torch.nn.Module) -> Iterator[None]:
    """Puts the trainable tensors back as they were: TRL casts QLoRA adapters to bfloat16 when a trainer is made."""
    tensors = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in tensors:
            parameter.data = tensors[name]
