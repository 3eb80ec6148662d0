"""Where a batch or a learning rate may not do what it is for, it is said, with what would mend it."""

from __future__ import annotations

import pytest

from finetune.batching import NoiseScale, count_updates, noise_words, scaling_doubts, scaling_ratio
from finetune.config import RunConfig, TrainingConfig
from finetune.spec import RunSpec

SCALED = {"lr_scaling": "sqrt", "reference_batch_size": 16, "micro_batch_size": 4, "gradient_accumulation_steps": 16}


def training(**keys: object) -> TrainingConfig:
    return TrainingConfig.model_validate({**SCALED, **keys})


def doubts(examples: int = 64_000, noise_scale: float | None = None, **keys: object) -> list[tuple[str, str]]:
    config = training(**keys)
    found = scaling_doubts(config, count_updates(config, examples), noise_scale)
    return [(doubt.why, doubt.change) for doubt in found]


def test_a_run_that_keeps_to_the_rules_has_none() -> None:
    assert scaling_ratio(training()) == 4
    assert doubts(noise_scale=100.0) == []


@pytest.mark.parametrize(
    ("keys", "why", "change"),
    [
        ({"lr_scaling": "linear"}, "=linear is not the rule of paged_adamw_8bit", "training.lr_scaling=sqrt"),
        ({"optimizer": "sgd"}, "=sqrt is not the rule of sgd: over a factor of 4", "training.lr_scaling=linear"),
        ({"warmup_ratio": 0.0}, "may be too high for the first updates", "training.warmup_ratio=0.05"),
        (
            {"lr_scheduler": "constant"}, "may be too high for the first updates",
            "training.lr_scheduler=constant_with_warmup training.warmup_ratio=0.05",
        ),
        ({"examples": 3200}, "the run has 50 updates: below 100", "training.gradient_accumulation_steps=8"),
        ({"examples": 64_016}, "the last update of each epoch has 16 of 64 examples: each of them weighs 4 times", ""),
        (
            {"warmup_ratio": 0.9995},
            "1,000 of 1,000 updates are warm-up, whose first has a learning rate of zero",
            "training.warmup_ratio=0",
        ),
        (
            {"noise_scale": 24.0}, "64 is beyond the noise scale of 24: the gradient is signal",
            "training.gradient_accumulation_steps=6",
        ),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_each_failure_of_a_rule_is_said_with_a_change(keys: dict, why: str, change: str) -> None:
    found = doubts(**keys)
    assert len(found) == 1, found
    assert why in found[0][0]
    assert found[0][1] == change


def test_a_change_that_is_made_leaves_no_doubt() -> None:
    assert doubts(examples=3200, gradient_accumulation_steps=8) == []
    assert doubts(optimizer="sgd", lr_scaling="linear") == []
    assert doubts(warmup_ratio=0.05) == []
    assert doubts(noise_scale=24.0, gradient_accumulation_steps=6) == []


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_the_learning_rate_is_scaled_by_the_rule(rule: str, factor: float) -> None:
    keys = {**SCALED, "lr_scaling": rule, "learning_rate": 1e-3}
    config = RunConfig.model_validate(
        {"model": {"name_or_path": "x"}, "data": {"train": "x"}, "output_dir": "x", "training": keys}
    )
    spec = RunSpec(config, None, None, None, None, None, None, "sdpa")
    assert spec.learning_rate == pytest.approx(1e-3 * factor)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (
            (64.0, 40.0, 100.0),
            "about 64 in place of 16: a larger batch still saves updates; as it was, 5 times",
        ),
        ((4.0, 2.0, 8.0), "about 4 in place of 16: a smaller batch would save rows; as it was, 1.25 times the fewest"),
        ((20.0, 12.0, 30.0), "the effective batch of 16 is as large as the noise scale, within its error: 2.25 times"),
        ((float("inf"), 9.0, float("inf")), "the gradient is not told apart from noise"),
    ],
)
def test_what_a_noise_scale_suggests(noise: tuple[float, float, float], words: str) -> None:
    assert noise_words(NoiseScale(*noise, 50.0), 16, 2).startswith(words)
