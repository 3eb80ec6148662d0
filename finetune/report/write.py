"""report.json: what was predicted beside what was measured."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.batching import NoiseScale
from finetune.report.pages import write_pages
from finetune.report.run_dir import RunDir
from finetune.spec import RunSpec

if TYPE_CHECKING:
    from finetune.data import LoadedData
    from finetune.rl.saving import Saving


@dataclass
class Measured:
    """What was seen of a run while it ran. Losses are nats per trained token; `seconds` of the training loop alone.
    `held_out_before` and `held_out_after` are figures by name; `baseline` is what the baseline of rewards saved."""

    seconds: float = 0.0
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    steps: int = 0
    epochs: float = 0.0
    losses: list[float] = field(default_factory=list)
    held_out_before: dict[str, float] = field(default_factory=dict)
    held_out_after: dict[str, float] = field(default_factory=dict)
    baseline: Saving | None = None
    predicted_bytes: int = 0
    peak_bytes: int = 0
    process_bytes: int = 0
    memory_meaning: str = ""
    noise_scale: NoiseScale | None = None
    rehearsal: dict[str, Any] = field(default_factory=dict)
    guards: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)


def write_report(spec: RunSpec, data: LoadedData, run: RunDir, measured: Measured) -> dict[str, Any]:
    """Writes report.json, report.md and report.html of a finished run; returns what report.json holds."""
    report = {
        "finetune_version": __version__,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "finished",
        "model": _model(spec),
        "adapter": run.adapter.name,
        "lora": spec.config.lora.model_dump(mode="json"),
        "data": {
            "train": asdict(data.train_stats),
            "eval": asdict(data.eval.stats) if data.eval else None,
        },
        "train": _train(spec, measured),
        "tokens_per_second": measured.tokens / measured.seconds if measured.seconds else None,
        "eval_loss": {"before": measured.held_out_before.get("loss"), "after": measured.held_out_after.get("loss")},
        "held_out": _held_out(measured),
        "baseline": asdict(measured.baseline) if measured.baseline else None,
        "memory": {
            "predicted_bytes": measured.predicted_bytes,
            "measured_bytes": measured.peak_bytes,
            "process_bytes": measured.process_bytes,
            "device": spec.device.kind,
            "measured_as": measured.memory_meaning,
        },
        "rehearsal": measured.rehearsal,
        "guards": measured.guards,
        "samples": measured.samples,
        "environment": json.loads((run.path / "environment.json").read_text(encoding="utf-8")),
        "notes": [*data.notes, *measured.notes],
    }
    run.write_json("report.json", report)
    write_pages(run.path)
    return report


def _held_out(measured: Measured) -> dict[str, dict[str, float | None]]:
    """Each held-out figure before and after training, null where it is no number."""
    before, after = measured.held_out_before, measured.held_out_after
    return {name: {"before": _finite(value), "after": _finite(after[name])} for name, value in before.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _model(spec: RunSpec) -> dict[str, Any]:
    quantization, parameters = spec.config.quantization, spec.parameters
    stored = quantization.type + (", double quantised" if quantization.double_quant else "")
    return {
        "name_or_path": spec.config.model.name_or_path,
        "parameters": {"total": parameters.total, "trainable": parameters.trainable, "quantized": parameters.quantized},
        "quantization": stored if quantization.type != "none" else "none",
        "dtype": str(spec.dtype).removeprefix("torch."),
        "compute_dtype": str(spec.compute_dtype).removeprefix("torch."),
        "attention": spec.attention,
    }


def _train(spec: RunSpec, measured: Measured) -> dict[str, Any]:
    losses = measured.losses
    return {
        "seconds": measured.seconds,
        "rows": measured.rows,
        "tokens": measured.tokens,
        "trained_tokens": measured.trained_tokens,
        "steps": measured.steps,
        "epochs": measured.epochs,
        "loss": {"first": losses[0], "last": losses[-1]} if losses else None,
        "learning_rate": spec.learning_rate,
        "micro_batch_size": spec.config.training.micro_batch_size,
        "effective_batch_size": spec.config.training.effective_batch_size,
        "noise_scale": _noise(measured.noise_scale),
    }


def _noise(noise: NoiseScale | None) -> dict[str, float | None] | None:
    """An infinite value or end is no JSON: it becomes null."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(noise).items()} if noise else None
