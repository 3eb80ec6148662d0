"""Gradient noise scale of a run while it runs, from the micro batches of its accumulated updates: no pass of its own.

A hook sees the gradient that each micro batch adds, before it is added, and takes its norm; the sum is there anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from finetune.batching import NoiseScale
from finetune.batching.noise_scale import NoiseScaleAverage, unbiased_pair
from finetune.training.together import in_turn

if TYPE_CHECKING:
    from finetune.training.supervised import SupervisedTrainer


class NoiseMeter(TrainerCallback, ExportableState):
    """Estimates tr Σ / |G|² of the trained tensors, one trained token being one example, and says it in rows.

    Tokens of a row are taken as independent, which they are not quite: rows of equal length give the same figure
    without that. Its sums are part of every checkpoint. It logs `noise_scale`, `noise_scale_low` and
    `noise_scale_high`, rows (or packs) of an update.
    """

    def __init__(self, trainer: SupervisedTrainer) -> None:
        self.trainer = trainer
        self.average = NoiseScaleAverage()
        self.rows, self.tokens = 0, torch.zeros((), dtype=torch.long)
        self._hooks: list[Any] = []
        self._begin_update()

    def state(self) -> dict[str, Any]:
        """What transformers writes into a checkpoint's trainer_state.json."""
        sums = self.average.sums.tolist()
        return {"args": {}, "attributes": {"sums": sums, "rows": self.rows, "tokens": int(self.tokens)}}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Takes up a checkpoint's sums, and begins to watch."""
        saved = state.stateful_callbacks.get(type(self).__name__, self.state())["attributes"]
        device = self.trainer.args.device
        self.average.sums = torch.tensor(saved["sums"], dtype=torch.float64, device=device)
        self.rows, self.tokens = saved["rows"], torch.tensor(saved["tokens"], device=device)
        self.watch()

    def watch(self) -> None:
        """Hangs a hook on every trained tensor."""
        self._begin_update()
        self._hooks = [parameter.register_hook(self._see) for parameter in self._trained()]

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Stops watching."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def after_micro_batch(self, labels: torch.Tensor, trained: torch.Tensor) -> None:
        """Called after each backward pass, with the labels (rows, tokens) and how many of them are trained."""
        if not self._hooks:
            return
        if not self.trainer.processes.alone:
            self._counts.append(trained)
            self._rows.append(labels.shape[0])
            return
        if self._left_out:
            self._norms = []
            if self.trainer.accelerator.sync_gradients:
                self._begin_update()
            return
        self.rows, self.tokens = self.rows + labels.shape[0], self.tokens + trained
        self._counts.append(trained)
        self._squares.append(_square(self._norms))
        self._norms = []
        if self.trainer.accelerator.sync_gradients:
            self._end_update()

    def keep_norm(self) -> None:
        """Called after each backward pass of this process, where there are several."""
        if self._hooks and not self._left_out:
            self._squares.append(_square(self._norms))
        self._norms = []

    def after_sum(self) -> None:
        """Called once every process has the sum of all gradients: what single micro batches gave, and the whole."""
        if not self._hooks:
            return
        own = torch.stack(self._squares).tolist() if self._squares else []
        every = self.trainer.processes.gather((self._left_out, own))
        if any(left_out for left_out, _ in every):
            self._begin_update()
            return
        self.rows, self.tokens = self.rows + sum(self._rows), self.tokens + sum(self._counts)
        device = self.trainer.args.device
        self._squares = [torch.tensor(one, device=device) for one in in_turn([squares for _, squares in every])]
        self._end_update()

    def leave_out(self) -> None:
        """The update is no sample: a micro batch of it was done in pieces, or rows were left out."""
        self._left_out = True

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Adds the estimate to the training metrics; an unbounded value or end stays out."""
        found = self.estimate() if logs and "loss" in logs else None
        if found:
            values = {"noise_scale": found.value, "noise_scale_low": found.low, "noise_scale_high": found.high}
            logs |= {name: value for name, value in values.items() if value != float("inf")}

    def estimate(self) -> NoiseScale | None:
        """The noise scale so far, in rows; None before the second accumulated update."""
        found = self.average.estimate()
        if found is None or not self.rows:
            return None
        each = max(int(self.tokens), 1) / self.rows
        return NoiseScale(found.value / each, found.low / each, found.high / each, found.updates)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]

    def _see(self, gradient: torch.Tensor) -> None:
        self._norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float32))

    def _begin_update(self) -> None:
        self._norms: list[torch.Tensor] = []
        self._counts: list[torch.Tensor] = []
        self._squares: list[torch.Tensor] = []
        self._rows: list[int] = []
        self._left_out = False

    def _end_update(self) -> None:
        """The loss divides by the tokens of the update, so a micro batch's share is scaled up to a mean of its own."""
        counts, squares = torch.stack(self._counts).double(), torch.stack(self._squares).double()
        whole = _square([torch.linalg.vector_norm(p.grad, dtype=torch.float32) for p in self._trained()])
        noise, signal = unbiased_pair(counts, squares * (counts.sum() / counts).square(), whole.double())
        scaler = self.trainer.accelerator.scaler
        if scaler is not None:  # float16: the loss was scaled up
            scale = scaler.scale(torch.ones_like(noise)).square()
            noise, signal = noise / scale, signal / scale
        self.average.add(noise, signal)
        self._begin_update()


def _square(norms: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(norms).square().sum()
