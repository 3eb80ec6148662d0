"""Where does the time of an update go, and what share of the machine's rate is reached?

    python benchmarks/profile_step.py CONFIG [KEY=VALUE ...] [--updates 3] [--json OUT]

Trains as `finetune train` does. After two updates of warm-up some run under torch's profiler, whose own cost is seen by
as many without it. Times are those of kernels on a card and of operators on a CPU, each without what it calls. The rate
of the machine is measured, by a product of two square matrices in the type that the run computes in; operations of an
update are those that preflight counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from environment import environment
from transformers import TrainerCallback

from finetune.config import load_config
from finetune.data import load_data
from finetune.model import build_model
from finetune.pipeline import largest_batch
from finetune.preflight import preflight
from finetune.spec import RunSpec, describe
from finetune.training import Watched, build_trainer

WARM_UP = 2
SIZE = 2048
"""Rows and columns of the square matrices; on a card four times as many."""
KINDS = {
    "expanding 4-bit weights": ("dequant",),
    "attention": ("attention", "flash", "fmha"),
    "matrix products": ("gemm", "::mm", "addmm", "bmm", "::linear", "mkldnn", "cutlass", "nvjet", "xmma"),
    "optimiser": ("adam", "optimizer"),
    "copies and casts": ("copy", "::cat", "::clone", "memcpy", "memset", "fill", "zero"),
}
"""Parts of the names of operators and kernels, looked for in this order; all others are element by element."""
REST, OUTSIDE = "element by element, and sums", "outside of operators"


class Profiler(TrainerCallback):
    """Times `updates` without the profiler, then as many with it."""

    def __init__(self, updates: int, device: str) -> None:
        self.updates, self.device = updates, device
        self.plain, self.profiled, self._running = [], [], None
        activity = torch.profiler.ProfilerActivity
        self._activities = [activity.CPU, *([activity.CUDA] if device == "cuda" else [])]

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock, and the profiler at its first update."""
        if state.global_step == WARM_UP + self.updates:
            self._running = torch.profiler.profile(activities=self._activities)
            self._running.__enter__()
        self._wait()
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Notes the time; the profiler ends with the last update."""
        self._wait()
        seconds = time.perf_counter() - self._start
        if state.global_step > WARM_UP:
            (self.profiled if self._running else self.plain).append(seconds)
        if state.global_step == WARM_UP + 2 * self.updates:
            self._running.__exit__(None, None, None)

    def kinds(self) -> dict[str, float]:
        """Seconds of one update by kind; on a card those at which it did nothing are `OUTSIDE`."""
        found = dict.fromkeys([*KINDS, REST], 0.0)
        for event in self._running.key_averages():
            on_card = event.device_type == torch.autograd.DeviceType.CUDA
            if on_card == (self.device == "cuda"):
                micro = event.self_device_time_total if on_card else event.self_cpu_time_total
                found[kind_of(event.key)] += micro / 1e6 / self.updates
        return found | {OUTSIDE: max(0.0, sum(self.profiled) / self.updates - sum(found.values()))}

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def kind_of(name: str) -> str:
    """What an operator or a kernel of this name does."""
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), REST)


def machine_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a product of two large square matrices, the best of five."""
    size = SIZE * (4 if device == "cuda" else 1)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def measure(spec: RunSpec, updates: int, folder: Path) -> dict[str, Any]:
    """The times of an update, and its rate beside the machine's."""
    data = load_data(spec)
    verdict = preflight(spec, batch=largest_batch(spec, data))
    trainer: Watched = build_trainer(spec, build_model(spec), data, folder / "run")
    device = spec.device.kind
    profiler = Profiler(updates, device)
    trainer.add_callback(profiler)
    trainer.train()
    seconds = sum(profiler.plain) / updates
    flops = verdict.flops_per_update
    rate = machine_rate(device, spec.compute_dtype)
    return {
        "dtype": str(spec.compute_dtype).removeprefix("torch."),
        "seconds_per_update": seconds,
        "profiled_seconds_per_update": sum(profiler.profiled) / updates,
        "seconds_by_kind": profiler.kinds(),
        "flops_per_update": flops,
        "machine_flops_per_second": rate,
        "share_of_rate": flops / seconds / rate,
        "environment": environment(),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: the kinds, the longest first."""
    total, kinds = result["profiled_seconds_per_update"], result["seconds_by_kind"]
    lines = ["| of an update | seconds | |", "|---|---:|---:|"]
    for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | {seconds:.2f} | {seconds / total:.0%} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The rate in a sentence."""
    reached, machine = result["flops_per_update"] / result["seconds_per_update"], result["machine_flops_per_second"]
    return (
        f"{result['flops_per_update'] / 1e12:.2f} TFLOP in {result['seconds_per_update']:.2f} s: {reached / 1e9:,.0f} "
        f"GFLOP/s in {result['dtype']}, {reached / machine:.0%} of the {machine / 1e9:,.0f} of a square product"
    )


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    steps = WARM_UP + 2 * options.updates
    fixed = [f"training.max_steps={steps}", "data.eval=null", "training.save_steps=null", "training.noise_scale=false"]
    with tempfile.TemporaryDirectory() as folder:
        spec = describe(load_config(options.config, [*fixed, *options.overrides]))
        result = measure(spec, options.updates, Path(folder))
    print(table(result), summary(result), sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
