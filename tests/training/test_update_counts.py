"""Updates are counted as the trainer counts them."""

from __future__ import annotations

import pytest
from assembly import assemble

from finetune.batching import count_updates


@pytest.mark.parametrize(
    "overrides",
    [
        {"micro_batch_size": 2, "gradient_accumulation_steps": 4, "epochs": 2.0},
        {"micro_batch_size": 5, "gradient_accumulation_steps": 2, "epochs": 1.5},
        {"micro_batch_size": 1, "gradient_accumulation_steps": 12, "epochs": 3.0, "warmup_ratio": 0.5},
        {"micro_batch_size": 5, "gradient_accumulation_steps": 1, "max_steps": 4, "warmup_ratio": 0.3},
        {"micro_batch_size": 4, "gradient_accumulation_steps": 2, "lr_scheduler": "constant"},
    ],
    ids=str,
)
def test_counts_are_the_trainer_s(config_file, overrides) -> None:
    """Twelve rows, trained for as long as the configuration says: updates, warm-up and the rows of the last update."""
    overrides = {"max_steps": None, **overrides}
    keys = [f"training.{key}={'null' if value is None else value}" for key, value in overrides.items()]
    assembly = assemble(config_file, "data.eval=null", "training.logging_steps=1", *keys)
    trainer = assembly.trainer
    seen = []
    step = trainer.training_step
    trainer.training_step = lambda model, inputs, *rest: (
        seen.append((trainer.state.global_step, inputs["input_ids"].shape[0])) or step(model, inputs, *rest)
    )
    trainer.train()
    found = count_updates(assembly.spec.config.training, 12)
    assert found.total == trainer.state.max_steps == trainer.state.global_step
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates.index(max(rates)) == found.warmup, "the peak comes right after warm-up"
    rows = [sum(rows for at, rows in seen if at == update) for update in range(found.total)]
    assert rows[: found.per_epoch] == [found.effective_batch_size] * (found.per_epoch - 1) + [found.last]
    assert found.epochs == pytest.approx(found.total / found.per_epoch)
