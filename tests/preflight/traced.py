"""Runs to trace: a family's tiny model under some settings, and what is read from a tape."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from families import write_family

from finetune.config import RunConfig
from finetune.preflight.hardware import find_card
from finetune.preflight.step import Batch
from finetune.preflight.tape import Tape
from finetune.spec import Device, RunSpec, describe

CPU = Device("cpu", "CPU", 2**34, bf16=False)
CARD = find_card("RTX 3090")
BATCH = Batch(rows=2, tokens=64)


def described(
    folder: Path,
    family: str = "llama3",
    *settings: str,
    batch: Batch = BATCH,
    device: Device = CPU,
    changes: dict[str, Any] | None = None,
) -> RunSpec:
    """A family's model with `changes` to its config.json, trained as `settings` (`section.key=value`) say: on the CPU
    in float32 unless they say otherwise."""
    directory = write_family(family, folder / family, **(changes or {}))
    config: dict[str, Any] = {
        "model": {"name_or_path": str(directory), "weights": "random"},
        "quantization": {} if device is CARD else {"compute_dtype": "float32"},
        "lora": {"r": 4, "alpha": 8, "target_modules": "all-linear"},
        "data": {"train": "none.jsonl", "max_length": batch.tokens, "packing": batch.packed},
        "training": {
            "micro_batch_size": batch.rows,
            "gradient_accumulation_steps": 2,
            "optimizer": "adamw_torch",
            "loss_kernel": "full_logits",
        },
        "output_dir": "none",
    }
    methods = [setting.partition("=")[2] for setting in settings if setting.startswith("training.method=")]
    if methods and methods[-1] != "sft":
        config["training"]["loss_kernel"] = "fused_linear"
    if methods and methods[-1] in ("rloo", "grpo"):
        config["rollout"] = {"num_generations": 2, "max_completion_length": 16}
        config["rewards"] = [{"type": "length", "max": 9}]
    for setting in settings:
        name, value = setting.split("=")
        section, key = name.split(".")
        config[section][key] = yaml.safe_load(value)
    return describe(RunConfig.model_validate(config), device)


def levels(tape: Tape) -> list[int]:
    """Bytes alive after each event."""
    alive, found = 0, []
    for event in tape.events:
        alive += tape.sizes[event] if event >= 0 else -tape.sizes[~event]
        found.append(alive)
    return found


def peak(tape: Tape) -> int:
    """The highest of them."""
    return max(levels(tape))


def peaks(tape: Tape) -> dict[str, int]:
    """The highest in each phase."""
    starts, found = dict(tape.marks), Counter[str]()
    phase = "load"
    for index, level in enumerate(levels(tape)):
        phase = starts.get(index, phase)
        found[phase] = max(found[phase], level)
    return dict(found)


def highest(tape: Tape, cause: str) -> int:
    """The most bytes that were alive at once for one cause."""
    alive = most = 0
    for event in tape.events:
        number = event if event >= 0 else ~event
        if tape.causes[number] == cause:
            alive += tape.sizes[number] if event >= 0 else -tape.sizes[number]
            most = max(most, alive)
    return most


def left(tape: Tape) -> dict[str, int]:
    """Bytes alive at the end, by cause."""
    alive = set[int]()
    for event in tape.events:
        if event >= 0:
            alive.add(event)
        else:
            alive.remove(~event)
    found = Counter[str]()
    for number in alive:
        found[tape.causes[number]] += tape.sizes[number]
    return dict(found)
