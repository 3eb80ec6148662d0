"""What a run claims, looked at again: its receipt, and that it resumes exactly on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from finetune.config import load_config
from finetune.data import load_data
from finetune.errors import FinetuneError, RunDirError
from finetune.json_lines import parse_lines
from finetune.model import build_model
from finetune.report import (
    Check,
    RunDir,
    check_inputs,
    check_machine,
    check_outputs,
    data_inputs,
    read_receipt,
    setting_inputs,
)
from finetune.spec import describe
from finetune.training import build_trainer, first_difference, is_good

CLOCK = ("seconds", "tokens_per_second", "memory_bytes")

HALF = 2
"""Updates before the interruption that is acted, and after it."""


def verify(path: Path) -> dict[str, Any]:
    """Every claim of a run's receipt beside what is here now. `good` where nothing is other than it says.

    Raises RunDirError where there is no receipt, or it was changed.
    """
    run = RunDir.open(path)
    receipt = read_receipt(run.path)
    checks = [*check_outputs(run, receipt), *_checkpoints(run), *_inputs(run, receipt)]
    return {
        "good": not any(check.state == "changed" for check in checks),
        "checks": [check._asdict() for check in checks],
        "drift": receipt["drift"],
    }


def _checkpoints(run: RunDir) -> Iterator[Check]:
    for path in sorted(run.checkpoints.glob("checkpoint-*")):
        yield Check(f"checkpoints/{path.name}", "ok" if is_good(path) else "changed", "")


def _inputs(run: RunDir, receipt: dict[str, Any]) -> Iterator[Check]:
    """Model and data may not be here: then nothing is said of them."""
    try:
        spec = describe(run.config())
        machine = setting_inputs(spec)
        yield from check_inputs(receipt, {"settings": machine.pop("settings")})
        yield from check_machine(receipt, machine)
        yield from check_inputs(receipt, data_inputs(spec, load_data(spec)))
    except FinetuneError as error:
        yield Check("model and data", "absent", error.message)


Train = Callable[[Path, list[str]], None]
"""Trains a configuration with these further arguments of `finetune train`, in a process of its own."""


def verify_resume(path: Path, train: Train | None = None) -> dict[str, Any]:
    """Trains a run's configuration for four updates, and again with an interruption after two, and compares: adapter,
    optimiser and losses to the bit. `differs` names what is not equal; on a difference `cause` is the first operation
    that gives other bits when a step is done twice. Raises the errors of `finetune.errors`."""
    run = RunDir.open(path)
    with TemporaryDirectory(prefix="verify-resume-") as folder:
        whole, halves = Path(folder) / "whole", Path(folder) / "halves"
        train = train or _in_a_process
        train(run.path / "config.yaml", [*_short(run), f"output_dir={whole}"])
        _interrupted(whole, halves)
        train(halves / "config.yaml", [f"output_dir={halves}", "--resume"])
        differs = [*_differences(whole, halves)]
    cause = _cause(run, _short(run)) if differs else None
    return {"exact": not differs, "updates": 2 * HALF, "differs": differs, "cause": cause}


def _short(run: RunDir) -> list[str]:
    """What makes a run short, and leaves every update as it is."""
    held_out = ["data.eval=null"] if run.config().data.eval is not None else []
    return [
        f"training.max_steps={2 * HALF}",
        f"training.save_steps={HALF}",
        "training.logging_steps=1",
        "training.sample_answers=0",
        "training.eval_steps=null",
        "training.report_to=[]",
        "hardware.shards=1",  # this is one process; nothing that is learned hangs on it
        *held_out,
    ]


def _in_a_process(config: Path, arguments: list[str]) -> None:
    """The command itself: a resumed run is a new process. Raises RunDirError with its words where it fails."""
    command = [sys.executable, "-m", "finetune.cli", "train", str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RunDirError(
            f"a short run of this configuration ended with {done.returncode}: {' '.join(said[-3:])}",
            "see that it trains: `finetune train RUN/config.yaml --dry-run output_dir=elsewhere`",
        )


def _interrupted(whole: Path, halves: Path) -> None:
    """The run as a power cut after its first checkpoint would have left it."""
    shutil.copytree(whole, halves)
    shutil.rmtree(halves / "adapter")
    shutil.rmtree(halves / "checkpoints" / f"checkpoint-{2 * HALF}")
    for page in halves.glob("report.*"):
        page.unlink()


def _differences(whole: Path, halves: Path) -> Iterator[str]:
    last = Path("checkpoints") / f"checkpoint-{2 * HALF}"
    for file in ("adapter/adapter_model.safetensors", last / "training_state.safetensors"):
        one, other = load_file(whole / file), load_file(halves / file)
        for name in dict.fromkeys([*one, *other]):
            if name not in one or name not in other or not torch.equal(one[name], other[name]):
                yield f"{file}: {name}"
    if _lines(whole) != _lines(halves):
        yield "metrics.jsonl: losses or norms"


def _lines(run: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says of the updates, without what depends on the clock."""
    rows, _ = parse_lines((run / "metrics.jsonl").read_text(encoding="utf-8"))
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def _cause(run: RunDir, overrides: list[str]) -> dict[str, str] | None:
    with TemporaryDirectory() as folder:
        spec = describe(load_config(run.path / "config.yaml", overrides))
        data = load_data(spec)
        return first_difference(build_trainer(spec, build_model(spec), data, Path(folder)))
