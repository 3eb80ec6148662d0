"""Preferences: TRL's DPOTrainer on pairs that are already tokenised, with held-out margin and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from trl import DPOTrainer

from finetune.spec.loss import NUMBER
from finetune.training.halves import in_halves
from finetune.training.watched import Shape, Watched

Pair = dict[str, list[int]]
"""`prompt_ids`, `chosen_ids` and `rejected_ids`."""


class PreferenceTrainer(Watched, DPOTrainer):
    """DPOTrainer whose reference policy is the base model itself, the adapter switched off: no second copy.

    A margin is beta times how much more the policy than the reference prefers the better answer, in nats.
    """

    NAMES: ClassVar[dict[str, str]] = {
        "rewards/margins": "margin",
        "rewards/accuracies": "accuracy",
        "rewards/chosen": "reward_chosen",
        "rewards/rejected": "reward_rejected",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator = Numbered(self.data_collator)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The rows are tokenised."""
        return dataset

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; counts the batch."""
        sides = inputs["input_ids"]
        self.count(len(sides) // 2, inputs["attention_mask"].sum(), inputs["completion_mask"].sum())
        if not self.takes_next():
            return self.nothing()
        with self.memory.follow(self.model, self.optimizer, sides.numel()):
            return super().training_step(model, inputs, *args, **kwargs)

    def units(self, inputs: dict[str, Any]) -> int:
        """Pairs: the sides of one stay together."""
        return self.rows(inputs) // 2

    def rows_of(self, units: Sequence[int], total: int) -> list[int]:
        """The better answers, then the others."""
        return [*units, *(total // 2 + unit for unit in units)]

    def share(self, piece: dict[str, Any], whole: dict[str, Any]) -> float:
        """The loss is a mean over pairs."""
        return self.units(piece) / self.units(whole)

    def trained(self, inputs: dict[str, Any]) -> torch.Tensor:
        """See `Guarded`."""
        return inputs["completion_mask"].sum()

    def metric_weight(self, inputs: dict[str, Any], name: str) -> torch.Tensor | int:
        """Entropy is a mean over the tokens of both answers, others over those of one, most over pairs."""
        tokens = inputs["completion_mask"][:, 1:]
        chosen, rejected = tokens.chunk(2)
        sides = {"entropy": tokens, "mean_token_accuracy": chosen, "logits/chosen": chosen, "logits/rejected": rejected}
        return sides[name].sum() if name in sides else len(chosen)

    @torch.no_grad()
    def held_out(self, rows: Sequence[Pair]) -> dict[str, float]:
        """Mean DPO loss (Rafailov et al. 2023, equation 7), margin, and share of pairs with one above zero.

        A margin of exactly zero, as every one is before the first update, counts half: neither answer is preferred.
        """
        was_training = self.model.training
        self.model.eval()
        size = self.rows_at_once
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        found = [part for batch in batches for part in in_halves(self._margins, batch, self.on_split)]
        margins = torch.cat(found)
        self.model.train(was_training)
        return {
            "loss": float(-torch.nn.functional.logsigmoid(margins).mean()),
            "margin": float(margins.mean()),
            "accuracy": float((margins.sign().mean() + 1) / 2),
        }

    def largest_held_out(self) -> tuple[list[Pair], Shape]:
        """The longest pairs."""
        longest = sorted(self.eval_dataset, key=_longer, reverse=True)[: self.rows_at_once]
        return longest, Shape("evaluation", 2 * len(longest), _longer(longest[0]))

    def _margins(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Margins of a batch of pairs (pairs), in float64."""
        batch = {key: value.to(self.args.device) for key, value in self.data_collator(pairs).items()}
        mask = batch.pop("completion_mask")
        labels = batch["input_ids"].masked_fill(mask == 0, -100)

        def log_probs() -> torch.Tensor:
            with self.accelerator.autocast():
                output = self.model(**batch, labels=labels, fused_lm_head=True, use_cache=False)
            return output.log_probs.double().sum(1)

        with self.model.disable_adapter():
            reference = log_probs()
        chosen, rejected = (log_probs() - reference).chunk(2)
        return self.beta * (chosen - rejected)


@dataclass(frozen=True)
class Numbered:
    """TRL's batch of pairs, and their numbers in the data set."""

    collate: Callable[[Sequence[Pair]], dict[str, torch.Tensor]]

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch."""
        numbers = {NUMBER: torch.tensor([pair[NUMBER] for pair in pairs])} if NUMBER in pairs[0] else {}
        return {**self.collate(pairs), **numbers}


def _longer(pair: Pair) -> int:
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
