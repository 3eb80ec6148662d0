"""Runs of which some layers are recomputed: the same to the bit, and as written down."""

from __future__ import annotations

import io
import json
from pathlib import Path

from assembly import assemble
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.spec import describe
from finetune.spec.recomputation import layers_of

KEY = "training.gradient_checkpointing"


def test_a_run_writes_down_what_was_decided_and_goes_on_so(config_file: Path, tmp_path: Path) -> None:
    """Both ways learn the same to the bit; a resumed run does not decide again."""
    metrics, written = {}, {}
    for value in ("auto", "true", "1"):
        run = tmp_path / value
        config = load_config(config_file, [f"{KEY}={value}", f"output_dir={run}"])
        pipeline.train(config, Console(file=io.StringIO()))
        metrics[value] = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        written[value] = load_config(run / "config.yaml").training.gradient_checkpointing
    assert list(map(repr, written.values())) == ["False", "True", "1"]
    losses = {value: [line["loss"] for line in lines if "loss" in line] for value, lines in metrics.items()}
    assert len(losses["auto"]) == 2 and losses["auto"] == losses["true"] == losses["1"]
    before = describe(load_config(config_file, [f"{KEY}=auto", f"output_dir={tmp_path / 'true'}"]))
    assert pipeline._recomputed(before, resume=True) is True
    assert pipeline._recomputed(before, resume=False) is False


def test_the_first_layers_alone_run_twice(config_file: Path) -> None:
    assembly = assemble(config_file, f"{KEY}=1", "training.max_steps=1", "data.eval=null")
    calls = [0, 0]
    for number, layer in enumerate(layers_of(assembly.model)):
        layer.self_attn.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
    assembly.trainer.train()
    assert calls == [4, 2], "two micro batches"
