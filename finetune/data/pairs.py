"""What a trainer of a method other than supervised fine-tuning gets: pairs of answers, or prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.spec.loss import IGNORED, NUMBER

if TYPE_CHECKING:
    from datasets import Dataset

    from finetune.data.encode import Encoded
    from finetune.data.splits import Prompt


def pair_dataset(rows: Sequence[Encoded]) -> Dataset:
    """Pairs as TRL's collator of preferences takes them: `prompt_ids`, `chosen_ids` and `rejected_ids`; with their
    number."""
    from datasets import Dataset

    return Dataset.from_list([{**pair, NUMBER: number} for number, pair in enumerate(pairs_of(rows))])


def pairs_of(rows: Sequence[Encoded]) -> list[dict[str, list[int]]]:
    """The pairs of a split, whose rows are the better and the other answer in turn."""
    return [as_pair(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]


def as_pair(chosen: Encoded, rejected: Encoded) -> dict[str, list[int]]:
    """Two answers to one prompt. An answer begins with the first token that either side trains, and ends with the last:
    what a template writes behind its stop token is no part of it. Where the sides differ earlier, because a token
    reaches over the end of the prompt, they part there."""
    begin = min(_first(chosen), _first(rejected), _common(chosen.input_ids, rejected.input_ids))
    return {
        "prompt_ids": chosen.input_ids[:begin],
        "chosen_ids": chosen.input_ids[begin : _behind(chosen)],
        "rejected_ids": rejected.input_ids[begin : _behind(rejected)],
    }


def prompt_dataset(prompts: Sequence[Prompt]) -> Dataset:
    """Prompts as text, with their tokens and their number."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [prompt.rendered for prompt in prompts],
            "input_ids": [prompt.input_ids for prompt in prompts],
            NUMBER: list(range(len(prompts))),
        }
    )


def _first(row: Encoded) -> int:
    return next(index for index, label in enumerate(row.labels) if label != IGNORED)


def _behind(row: Encoded) -> int:
    return next(index for index in range(len(row.labels), 0, -1) if row.labels[index - 1] != IGNORED)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    together = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(together) if a != b), min(len(left), len(right)))
