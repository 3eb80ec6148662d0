"""Updates of an epoch and of a run; that they are the trainer's stands in tests/training/test_update_counts.py."""

from __future__ import annotations

import pytest

from finetune.batching import count_updates, require_enough
from finetune.config import TrainingConfig
from finetune.errors import ConfigError


def training(**keys: object) -> TrainingConfig:
    return TrainingConfig.model_validate(keys)


@pytest.mark.parametrize(("accumulation", "per_epoch", "total"), [(1, 250, 1250), (10, 25, 125)])
def test_updates_of_fifty_thousand_rows_in_five_epochs(accumulation: int, per_epoch: int, total: int) -> None:
    keys = {"micro_batch_size": 200, "gradient_accumulation_steps": accumulation, "epochs": 5.0}
    found = count_updates(training(**keys), 50_000)
    assert (found.per_epoch, found.total, found.last) == (per_epoch, total, found.effective_batch_size)


def test_without_examples_only_max_steps_says_how_long() -> None:
    assert count_updates(training(), None) is None
    found = count_updates(training(max_steps=40, warmup_ratio=0.03), None)
    assert (found.total, found.warmup, found.per_epoch, found.epochs) == (40, 2, None, None)


def test_a_batch_of_more_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        require_enough(training(micro_batch_size=2, gradient_accumulation_steps=16), 10)
    assert caught.value.message == (
        "the effective batch of 2 x 16 = 32 is more than the 10 training examples: no update would be full"
    )
    assert caught.value.hint == "training.gradient_accumulation_steps=5 is the most; or name more rows"
    require_enough(training(micro_batch_size=2, gradient_accumulation_steps=5), 10)


def test_a_micro_batch_of_more_than_there_is_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        require_enough(training(micro_batch_size=4, gradient_accumulation_steps=1), 3)
    assert caught.value.hint == "lower training.micro_batch_size to 3 at most; or name more rows"
