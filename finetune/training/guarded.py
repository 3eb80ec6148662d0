"""A trainer whose updates survive: a batch that does not fit is split, an update that is no number is not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from finetune.processes import ALONE, Processes
from finetune.spec.loss import NUMBER
from finetune.training.guards import Guards
from finetune.training.halves import OnSplit
from finetune.training.noise import NoiseMeter
from finetune.training.nonfinite import recover
from finetune.training.together import share_update
from finetune.training.update import MicroBatch, Update


class Guarded:
    """Comes before one of TRL's trainers in the order of classes, behind `Watched`.

    `places` names the rows behind a number of the training data set. `guards` is None where nothing is to be guarded,
    as in a rehearsal, whose business it is to fail. What a batch consists of is said for rows of `input_ids` here, and
    by the trainers of pairs and completions for theirs.

    Every one of `processes` goes through all micro batches of an update, and passes over those alone that fall to it:
    transformers counts updates, epochs and trained tokens as in one process. Gradients are summed once, before they
    are clipped.
    """

    noise: NoiseMeter | None = None
    """Only of methods that say what a micro batch's gradient is."""
    sharded = False
    """Whether the base is shared out: then a pass that failed is not done again, since others are in the middle of
    theirs."""

    def __init__(self, *args: Any, places: Callable[[int], list[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.processes: Processes = ALONE
        self.guards: Guards | None = Guards(self, places)
        self.loss_share: torch.Tensor | float | None = None
        self.update = Update(self)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if NUMBER not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, NUMBER]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, torch.Tensor | int | None]:
        """The micro batches of the next update, which begins here."""
        found = super().get_batch_samples(*args, **kwargs)
        self.update = Update(self)
        return found

    def takes_next(self) -> bool:
        """Whether the next micro batch of the update is this process's. In a rehearsal every one is."""
        place, self.update.begun = self.update.begun, self.update.begun + 1
        return self.guards is None or self.processes.owns(place)

    def nothing(self) -> torch.Tensor:
        """The loss of a micro batch that falls to another process."""
        return torch.zeros((), device=self.args.device)

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass; see `Update.step`."""
        model.train()
        batch = self._prepare_inputs(inputs)
        numbers = batch.get(NUMBER)
        batch = {key: value for key, value in batch.items() if key != NUMBER}
        if self.guards is None:
            return self.pass_over(model, batch, num_items_in_batch)
        return self.update.step(model, batch, numbers, num_items_in_batch)

    def pass_over(
        self, model: torch.nn.Module, inputs: dict[str, Any], count: torch.Tensor | int | None
    ) -> torch.Tensor:
        """TRL's forward and backward pass; its loss, detached."""
        return super().training_step(model, inputs, count)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss; of a piece of a micro batch its share of the batch's."""
        loss = super().compute_loss(*args, **kwargs)
        return loss if self.loss_share is None else loss * self.loss_share

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Norm of the gradients, clipped. An update that is no number is not taken: see `nonfinite.recover`."""
        clip = self._summed(super()._clip_grad_norm)
        if self.guards is None:
            return clip(model)
        # float16: infinite gradients are the scaler's business, and it divides them only once.
        norm = None if self.accelerator.scaler is not None else clip(model)
        if not self.update.finite(norm):
            norm = recover(self, norm, lambda: clip(model))
        norm = clip(model) if norm is None else norm
        self.guards.after_update(share_update(self.update))
        return norm

    def _summed(self, clip: Callable[[torch.nn.Module], torch.Tensor]) -> Callable[[torch.nn.Module], torch.Tensor]:
        """`clip`, of the gradients of all processes together."""

        def clip_all(model: torch.nn.Module) -> torch.Tensor:
            self.processes.sum_gradients(parameter for parameter in model.parameters() if parameter.requires_grad)
            if self.noise and not self.processes.alone and not self.update.measured:
                self.update.measured = True  # of an update that is done again, what it was at first
                self.noise.after_sum()
            return clip(model)

        return clip_all

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs the mean loss of the updates that were taken; none where none was."""
        taken, updates = self.guards.taken_since_log() if self.guards else (1, 1)
        if "loss" in logs and taken < updates:
            loss = logs.pop("loss")
            logs |= {"loss": loss * updates / taken} if taken else {}
        super().log(logs, *args, **kwargs)

    @property
    def on_split(self) -> OnSplit | None:
        """What hears of a batch that is split; None where none is to be."""
        return self.guards.on_split if self.guards and not self.sharded else None

    def clear_gradients(self) -> None:
        """None, whole or in part: those of the update so far, and what a failed pass has left elsewhere."""
        self.model.zero_grad()
        if self.noise:
            self.noise.leave_out()
        offload = getattr(self, "maybe_activation_offload_context", None)
        for name in ("tracker", "fwd_stash", "bwd_tensor_stash", "bwd_ev_stash"):
            getattr(offload, name, {}).clear()
        if hasattr(offload, "is_first_forward_call"):
            offload.is_first_forward_call = True

    @contextmanager
    def shared(self, piece: dict[str, Any], whole: dict[str, Any]) -> Iterator[None]:
        """Passes inside are over a piece of a micro batch."""
        self.loss_share = self.share(piece, whole)
        try:
            yield
        finally:
            self.loss_share = None

    def rows(self, inputs: dict[str, Any]) -> int:
        """Rows of a batch as the model sees it."""
        return len(inputs["input_ids"])

    def units(self, inputs: dict[str, Any]) -> int:
        """What a batch can be split into: its rows."""
        return self.rows(inputs)

    def rows_of(self, units: Sequence[int], total: int) -> list[int]:
        """The rows of some units in a batch of `total` rows."""
        return list(units)

    def share(self, piece: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor | float | None:
        """What the loss of a piece is to be multiplied with; None where TRL's is a sum already."""
        raise NotImplementedError

    def trained(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Trained tokens of a batch."""
        raise NotImplementedError

    def metric_weight(self, inputs: dict[str, Any], name: str) -> torch.Tensor | int:
        """What TRL's mean of that name divides by."""
        raise NotImplementedError

    def mean_loss(self, micro: MicroBatch, count: torch.Tensor | int | None) -> torch.Tensor:
        """The loss of a micro batch by itself, so that micro batches can be compared."""
        return micro.loss * self.current_gradient_accumulation_steps

    def count_anew(self, micro_batches: list[MicroBatch]) -> torch.Tensor | int | None:
        """What the loss of an update divides by where units are left out: as if they had not been there."""
        self.current_gradient_accumulation_steps = self.processes.total(len(micro_batches))
        return None
