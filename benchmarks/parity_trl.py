"""Does finetune learn the same as plain TRL + PEFT + bitsandbytes? Compares the loss of every step.

    python benchmarks/parity_trl.py --model DIR --data ROWS.jsonl [--steps 20] [--rounds 3] [--json OUT]

Each side runs in a process of its own, on the CPU in float32: `plain_trl.py`, and `finetune train` with the same
settings and TRL's adapter dtype. Exits with 1 where the losses differ by more than 1e-4 of the loss in any step.

With `--rounds` it also takes the time: that many rounds, each running plain TRL and three finetune runs in turn (same
settings; adapters in float32 as finetune keeps them; and packed rows too), so that a change in the machine's load
falls on all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environment import REPO, environment

TOLERANCE = 1e-4
"""Largest allowed difference of a step's loss, relative to plain TRL's."""
TIMED_STEPS = 6
"""Updates of each timed run; the first is left out of the time."""
CONFIG = """\
model: {{name_or_path: {model}, dtype: float32}}
quantization: {{compute_dtype: float32}}
lora: {{r: 16, alpha: 32, dropout: 0.0, target_modules: [q_proj, k_proj, v_proj, o_proj], dtype: bfloat16}}
data: {{train: {data}, max_length: 512, loss_on: all}}
training:
  max_steps: {steps}
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 1.0e-3
  lr_scheduler: cosine
  warmup_ratio: 0.1
  optimizer: adamw_torch
  gradient_checkpointing: true
  seed: 42
hardware: {{device: cpu}}
output_dir: {run}
"""
TIMED = {
    "finetune": [],
    "finetune, fp32 adapters": ["lora.dtype=float32"],
    "finetune, fp32 adapters, packed": [
        "lora.dtype=float32",
        "data.packing=true",
        "training.micro_batch_size=1",
        "training.gradient_accumulation_steps=1",
    ],
}
"""What is timed beside plain TRL: overrides of CONFIG. A pack of 512 tokens stands for a batch of four short rows."""


def main() -> None:
    """Compares, prints, writes; exits with 1 where the losses differ."""
    options = _arguments()
    plain, ours = _plain(options), _ours(options)
    differences = relative_differences(plain["losses"], ours["losses"])
    _print_losses(plain["losses"], ours["losses"], differences)
    passed = agree(differences)
    print(f"largest relative difference {max(differences):.1e}, allowed {TOLERANCE:.0e}")
    result = {
        "model": Path(options.model).name,
        "steps": options.steps,
        "tolerance": TOLERANCE,
        "passed": passed,
        "max_relative_difference": max(differences),
        "losses": {"plain_trl": plain["losses"], "finetune": ours["losses"]},
        "tokens": {"plain_trl": plain["tokens"], "finetune": ours["tokens"]},
        "speed": _speed(options) if options.rounds else None,
        "environment": environment(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if passed else 1)


def relative_differences(plain: list[float], ours: list[float]) -> list[float]:
    """|ours - plain| / plain of each step; raises ValueError where one side has more steps."""
    return [abs(b - a) / a for a, b in zip(plain, ours, strict=True)]


def agree(differences: list[float]) -> bool:
    """Whether each is within TOLERANCE; NaN is not."""
    return all(difference <= TOLERANCE for difference in differences)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", required=True, help="JSONL file of conversations in messages format")
    parser.add_argument("--steps", type=int, default=20, help="optimiser updates to compare")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of timing after the comparison")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """Losses, tokens and seconds of each step with plain TRL."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plain.json"
        script = Path(__file__).with_name("plain_trl.py")
        run_python(script, options.model, options.data, out, "--steps", options.steps)
        return json.loads(out.read_text(encoding="utf-8"))


def _ours(options: argparse.Namespace, overrides: list[str] | None = None) -> dict[str, Any]:
    """The same of `finetune train`, as its metrics and its report say."""
    with tempfile.TemporaryDirectory() as folder:
        config, run = Path(folder) / "config.yaml", Path(folder) / "run"
        text = CONFIG.format(model=options.model, data=options.data, steps=options.steps, run=run)
        config.write_text(text, encoding="utf-8")
        run_python("-m", "finetune.cli", "train", config, *(overrides or []))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    steps = [line for line in lines if "loss" in line]
    return {
        "losses": [line["loss"] for line in steps],
        "ends": [line["seconds"] for line in steps],
        "tokens": report["train"]["tokens"],
    }


def run_python(*arguments: Any) -> None:
    """Runs Python on the arguments; leaves with what it said where it fails."""
    paths = [str(REPO), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=variables)
    if done.returncode:
        sys.exit(f"{Path(str(arguments[0])).name} failed:\n{done.stderr[-2000:]}")


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step and tokens per second, each step's time the least of all rounds."""
    options = argparse.Namespace(**{**vars(options), "steps": TIMED_STEPS})
    runs: dict[str, list[dict[str, Any]]] = {"plain TRL": [], **{name: [] for name in TIMED}}
    for number in range(options.rounds):
        print(f"timing, round {number + 1} of {options.rounds}", file=sys.stderr)
        runs["plain TRL"].append(_plain(options))
        for name, overrides in TIMED.items():
            runs[name].append(_ours(options, overrides))
    speed = {name: _summary(of) for name, of in runs.items()}
    for name, numbers in speed.items():
        print(f"{name:<34}{numbers['seconds_per_step']:8.3f} s a step {numbers['tokens_per_second']:8.1f} tokens/s")
    return {"rounds": options.rounds, "steps": TIMED_STEPS, **speed}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Every round does the same work in the same step, so the least time of a step is the one least disturbed."""
    rounds = [[end - start for start, end in itertools.pairwise(run["ends"])] for run in runs]
    seconds = statistics.mean(min(step) for step in zip(*rounds, strict=True))
    return {
        "seconds_per_step": round(seconds, 3),
        "seconds_per_step_each_round": [round(statistics.mean(steps), 3) for steps in rounds],
        "tokens_per_second": round(runs[0]["tokens"] / TIMED_STEPS / seconds, 1),
    }


def _print_losses(plain: list[float], ours: list[float], differences: list[float]) -> None:
    print(f"{'step':>4}  {'plain TRL':>12}  {'finetune':>12}  {'difference':>10}")
    for step, (a, b, difference) in enumerate(zip(plain, ours, differences, strict=True), start=1):
        print(f"{step:>4}  {a:12.8f}  {b:12.8f}  {difference:10.1e}")


if __name__ == "__main__":
    main()
