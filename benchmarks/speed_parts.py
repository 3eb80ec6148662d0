"""What does each part of finetune's fast path bring on this machine, and what does compiling?

    python benchmarks/speed_parts.py --model DIR --data ROWS.jsonl [--dtype float32] [--rounds 4] [--json FILE]

Short rows, packed: each way once in each round, in a process of its own, and each round begins with another way, so
that what comes first or last has no advantage. Compiling has an empty cache of the compiler; its cold start is what the
command takes around its updates beyond what it takes with the same attention and nothing compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import REPO, environment
from parity_trl import run_ours
from speed import KEPT, PACKED, STEPS, WARM_UP, computing, spread

BATCH = ["training.micro_batch_size=1", "training.gradient_accumulation_steps=2", "lora.dtype=float32", PACKED, KEPT]
DEFAULT, MASK, COMPILED = "the default", "packed over a mask", "compiled"
WAYS = {
    DEFAULT: [],
    "padded": ["data.packing=false", "training.micro_batch_size=8"],
    "recomputing": ["training.gradient_checkpointing=true"],
    MASK: ["model.attention=sdpa"],
    "whole logits": ["training.loss_kernel=full_logits"],
    "norms as they come": ["model.lean_norms=false"],
    "gates as they come": ["model.lean_gates=false"],
    "16-bit adapters": ["lora.dtype=bfloat16"],
    COMPILED: ["training.compile=true"],
}
"""What is switched, one part at a time."""


def main() -> None:
    """Measures, prints, writes after each round."""
    options = _arguments()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for number in range(options.rounds):
        names = [*WAYS][number % len(WAYS) :] + [*WAYS][: number % len(WAYS)]
        for name in names:
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(run(options, [*computing(options.dtype), *BATCH, *WAYS[name]]))
        result = {
            "model": Path(options.model).name,
            "dtype": options.dtype,
            "steps": STEPS,
            "rounds": number + 1,
            "ways": found,
            "environment": environment(),
        }
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of conversations in messages format")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="what all compute in")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def run(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Tokens per second behind the warm-up, and seconds of the command and of its updates."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiler")
        fast = [] if "training.compile=true" in overrides else ["training.rehearsal=false"]
        start = time.perf_counter()
        found = run_ours(options.model, options.data, Path(folder), STEPS, *overrides, *fast)
        seconds = time.perf_counter() - start
    tokens, ends = found["tokens"], found["ends"]
    return {
        "tokens_per_second": (tokens[-1] - tokens[WARM_UP - 1]) / (ends[-1] - ends[WARM_UP - 1]),
        "seconds": seconds,
        "seconds_of_updates": ends[-1],
        "losses": found["losses"],
        "peak_bytes": found["peak_bytes"],
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: one row a way, its speed as a share of the default's in the same rounds."""
    lines = [
        "| on short rows | tokens/s, median (range) | of the default (range) | process, GiB |",
        "| :--- | ---: | ---: | ---: |",
    ]
    base = [one["tokens_per_second"] for one in result["ways"][DEFAULT]]
    for name, runs in result["ways"].items():
        rates = [one["tokens_per_second"] for one in runs]
        shares = [rate / other for rate, other in zip(rates, base, strict=True)]
        peak = max(one["peak_bytes"] for one in runs) / 2**30
        lines.append(f"| {name} | {spread(rates, 0)} | {spread(shares, 2)} | {peak:.2f} |")
    return "\n".join(lines)


def cold_start(result: dict[str, Any]) -> float:
    """Median seconds, rehearsal and compilation together."""
    around = [[one["seconds"] - one["seconds_of_updates"] for one in result["ways"][name]] for name in (COMPILED, MASK)]
    return statistics.median(one - other for one, other in zip(*around, strict=True))


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    main()
