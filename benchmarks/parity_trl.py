"""Does finetune learn the same as plain TRL + PEFT + bitsandbytes? Compares the loss of every step.

    python benchmarks/parity_trl.py --model DIR --data ROWS.jsonl [--steps 20] [--rounds 3] [--json OUT]

Each side runs in a process of its own, on the CPU in float32: `plain_trl.py`, and `finetune train` with the same
settings and TRL's adapter dtype. Exits with 1 where the losses differ by more than 1e-4 of the loss in any step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environment import REPO, environment

TOLERANCE = 1e-4
"""Largest allowed difference of a step's loss, relative to plain TRL's."""
SAME_SUMS = ["model.lean_norms=false", "training.loss_kernel=full_logits"]
"""The parts of the fast path that sum in another order are off: 16-bit adapters make the last digit of a float32 the
fourth of a loss within ten updates. That they compute the same is shown part by part (tests/spec)."""
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


def main() -> None:
    """Compares, prints, writes; exits with 1 where the losses differ."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        plain = run_plain(options.model, options.data, Path(one), options.steps)
        ours = run_ours(options.model, options.data, Path(other), options.steps, *SAME_SUMS)
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
        "tokens": {"plain_trl": plain["tokens"][-1], "finetune": ours["tokens"][-1]},
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
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of conversations in messages format")
    parser.add_argument("--steps", type=int, default=20, help="optimiser updates to compare")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def run_plain(
    model: str, data: Path, folder: Path, steps: int, dtype: str = "float32", **fields: Any
) -> dict[str, Any]:
    """Plain TRL with other `fields` of SFTConfig: losses, and of each update its end in seconds and the tokens so far,
    without padding; the peak memory of its process. The adapter is left in `folder`/adapter."""
    script, out = Path(__file__).with_name("plain_trl.py"), folder / "plain.json"
    extra = ["--set", json.dumps(fields), "--adapter", folder / "adapter", "--dtype", dtype]
    run_python(script, model, data, out, "--steps", steps, *extra)
    return json.loads(out.read_text(encoding="utf-8"))


def run_ours(model: str, data: Path, folder: Path, steps: int, *overrides: str) -> dict[str, Any]:
    """The same of `finetune train`, as its metrics and its report say."""
    config, run = folder / "config.yaml", folder / "run"
    config.write_text(CONFIG.format(model=model, data=data, steps=steps, run=run), encoding="utf-8")
    run_python("-m", "finetune.cli", "train", config, *overrides)
    (run / "adapter").rename(folder / "adapter")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    updates = [line for line in lines if "loss" in line]
    ends = [line["seconds"] for line in updates]
    taken = (end - start for start, end in itertools.pairwise([0.0, *ends]))
    each = (line["tokens_per_second"] * seconds for line, seconds in zip(updates, taken, strict=True))
    tokens = [round(total) for total in itertools.accumulate(each)]
    tokens[-1] = report["train"]["tokens"]  # counted; rates and seconds are rounded
    return {
        "losses": [line["loss"] for line in updates],
        "ends": ends,
        "tokens": tokens,
        "peak_bytes": report["memory"]["process_bytes"],
    }


def run_python(*arguments: Any) -> None:
    """Runs Python on the arguments; leaves with what it said where it fails."""
    paths = [str(REPO), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=variables)
    if done.returncode:
        sys.exit(f"{Path(str(arguments[0])).name} failed:\n{done.stderr[-2000:]}")


def _print_losses(plain: list[float], ours: list[float], differences: list[float]) -> None:
    print(f"{'step':>4}  {'plain TRL':>12}  {'finetune':>12}  {'difference':>10}")
    for step, (a, b, difference) in enumerate(zip(plain, ours, differences, strict=True), start=1):
        print(f"{step:>4}  {a:12.8f}  {b:12.8f}  {difference:10.1e}")


if __name__ == "__main__":
    main()
