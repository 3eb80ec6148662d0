"""The step of direct preference optimisation (Rafailov et al. 2023), as TRL's DPOTrainer takes it (`_compute_loss`).

The chosen and the rejected answers of a micro batch go through the model together. The policy comes first; what it
keeps for its backward pass is there while the reference reads the same rows: the same weights, with the adapter off.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.nn import functional

from finetune.preflight.step import FORWARD, Step
from finetune.preflight.tape import HEAD

REFERENCE = "reference forward"


class PreferenceStep(Step):
    """Runs micro batches of pairs; a batch has two rows for each."""

    outputs: ClassVar[tuple[str, ...]] = ("log_probs", "entropy", "mean_logits", "is_top1")

    def _forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        self._workspace("forward")
        policy = self.score(batch)
        self.recorder.enter(FORWARD, HEAD)
        with self.without_gradients(REFERENCE), self.model.disable_adapter():
            reference = self.score(batch)
        chosen, rejected = (policy.log_probs.sum(1) - reference.log_probs.sum(1)).chunk(2)
        loss = -functional.logsigmoid(self.spec.config.training.pull * (chosen - rejected)).mean()
        return loss, None
