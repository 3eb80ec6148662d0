"""The trainer: TRL's SFTTrainer on rows that are already tokenised, masked and packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from finetune.spec import RunSpec
from finetune.spec.loss import IGNORED, next_token_loss
from finetune.training.evaluation import evaluate_model
from finetune.training.memory import MemoryMeter
from finetune.training.noise import NoiseMeter

if TYPE_CHECKING:
    from peft import PeftModel

    from finetune.data import LoadedData


class Trainer(SFTTrainer):
    """SFTTrainer with a choice of loss kernel, held-out loss per token, and a count of what was learned from.

    `noise` estimates the gradient noise scale of a run that accumulates, None where nothing does.
    `rows_seen` and `tokens_seen` count rows and tokens without padding, `trained_seen` those with a label. They are
    tensors on the model's device, so that counting never waits for it.
    """

    def __init__(self, *args: Any, spec: RunSpec, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spec = spec
        self.memory = MemoryMeter(self.args.device)
        self.remove_callback(PrinterCallback)  # the progress bar says it better
        self.add_before_reporters(LastUpdate(evaluates=bool(self.eval_dataset)))
        accumulates = self.args.gradient_accumulation_steps > 1
        self.noise = NoiseMeter(self) if spec.config.training.noise_scale and accumulates else None
        if self.noise:
            self.add_before_reporters(self.noise)
        zero = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.rows_seen, self.tokens_seen, self.trained_seen = zero.clone(), zero.clone(), zero.clone()

    def add_before_reporters(self, *callbacks: TrainerCallback) -> None:
        """Adds callbacks that are called before TensorBoard and the like, which thus see what these add to a log."""
        present = self.callback_handler.callbacks
        reporters = (i for i, known in enumerate(present) if "integrations" in type(known).__module__)
        at = next(reporters, len(present))
        present[at:at] = callbacks

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains. The bar and the reporters are closed also where it fails or is interrupted."""
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Loads an adapter in the type that it has here: PEFT makes a bfloat16 one float32."""
        dtypes = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
        super()._load_from_checkpoint(*args, **kwargs)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtypes[name])

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, torch.Tensor | int | None]:
        """No rows where no update is left: transformers makes one too many where it resumes after the last."""
        if self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; counts the batch."""
        self.rows_seen += inputs.pop("rows").sum()
        self.tokens_seen += inputs.pop("tokens").sum()
        labels = inputs["labels"]
        trained = (labels != IGNORED).sum()
        self.trained_seen += trained
        with self.memory.follow(self.model, self.optimizer, inputs["input_ids"].numel()):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if self.noise:
            self.noise.after_micro_batch(labels, trained)
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Negative log-likelihood per trained token of the whole effective batch."""
        if self.spec.config.training.loss_kernel == "fused_linear":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)
        loss = next_token_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out loss per trained token over all rows: transformers' own average weighs batches, not tokens."""
        loss = evaluate_model(self.spec, self.model, self.eval_dataset, self.data_collator)
        metrics = {f"{metric_key_prefix}_loss": loss}
        # Not TRL's own log, which would report and forget the training metrics since the last line.
        super(SFTTrainer, self).log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def last_held_out_loss(self) -> float:
        """That of the model as it is now, evaluated anew only where the last update was not."""
        for entry in reversed(self.state.log_history):
            if "eval_loss" in entry and entry["step"] == self.state.global_step:
                return entry["eval_loss"]
        return self.evaluate()["eval_loss"]


class LastUpdate(TrainerCallback):
    """Logs and evaluates the last update whatever the intervals, while reporters still listen. Logs at every
    checkpoint: what the loss summed up since the last line is no part of one, and a resumed run would lose it."""

    def __init__(self, *, evaluates: bool) -> None:
        self.evaluates = evaluates

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Called after every update, once DefaultFlowCallback has set its flags."""
        last = state.global_step >= state.max_steps
        control.should_log |= control.should_save or last
        control.should_evaluate |= last and self.evaluates


def build_trainer(spec: RunSpec, model: PeftModel, data: LoadedData, checkpoints: Path) -> Trainer:
    """The trainer for a described run. `checkpoints` is the directory it saves to."""
    with adapter_untouched(model):
        return Trainer(
            model=model,
            args=spec.trainer_arguments(checkpoints),
            data_collator=data.collator,
            train_dataset=data.train_dataset,
            eval_dataset=data.eval.rows if data.eval else None,
            processing_class=data.tokenizer,
            spec=spec,
        )


@contextmanager
def adapter_untouched(model: torch.nn.Module) -> Iterator[None]:
    """Puts the trainable tensors back as they were: TRL casts QLoRA adapters to bfloat16 when a trainer is made."""
    tensors = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in tensors:
            parameter.data = tensors[name]
