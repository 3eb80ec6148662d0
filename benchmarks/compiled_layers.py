"""What `training.compile` brings on this machine, and what its cold start costs.

    python benchmarks/compiled_layers.py --model DIR --data ROWS.jsonl [--dtype float32] [--rounds 3] [--json F]

Short rows packed, nothing recomputed, each way in turn in each round and in a process of its own: finetune as it comes,
with the attention that compiled layers have, and compiled, with an empty cache of the compiler. The cold start is what
the command takes longer than that before it, beyond what its updates do.
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
from speed import KEPT, PACKED, STEPS, WARM_UP, computing

BATCH = ["training.micro_batch_size=1", "training.gradient_accumulation_steps=2", "lora.dtype=float32", PACKED, KEPT]
WAYS = {
    "as it comes": [],
    "packed over a mask": ["model.attention=sdpa"],
    "compiled": ["training.compile=true"],
}


def main() -> None:
    """Measures, prints, writes."""
    options = _arguments()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for number in range(options.rounds):
        for name, overrides in WAYS.items():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(_run(options, [*computing(options.dtype), *BATCH, *overrides]))
    result = {
        "model": Path(options.model).name,
        "dtype": options.dtype,
        "steps": STEPS,
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def _run(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiler")
        start = time.perf_counter()
        run = run_ours(options.model, options.data, Path(folder), STEPS, *overrides)
        seconds = time.perf_counter() - start
    tokens, ends = run["tokens"], run["ends"]
    return {
        "tokens_per_second": (tokens[-1] - tokens[WARM_UP - 1]) / (ends[-1] - ends[WARM_UP - 1]),
        "seconds": seconds,
        "seconds_of_updates": ends[-1],
        "losses": run["losses"],
        "peak_bytes": run["peak_bytes"],
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: one row a way."""
    ways = result["ways"]
    lines = [
        "| on short rows | tokens/s, median (range) | of as it comes | cold start, s | process, GiB | losses |",
        "| :--- | ---: | ---: | ---: | ---: | :--- |",
    ]
    base = [run["tokens_per_second"] for run in ways["as it comes"]]
    for name, runs in ways.items():
        rates = [run["tokens_per_second"] for run in runs]
        share = statistics.median(rate / other for rate, other in zip(rates, base, strict=True))
        cells = [name, f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})", f"{share:.2f}"]
        cells += [f"{cold_start(result):.0f}" if name == "compiled" else ""]
        cells += [f"{max(run['peak_bytes'] for run in runs) / 2**30:.2f}"]
        cells += [" ".join(f"{loss:.2f}" for loss in runs[0]["losses"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cold_start(result: dict[str, Any]) -> float:
    """Median seconds that a compiled run takes around its updates beyond what one that is not takes."""
    around = {
        name: [run["seconds"] - run["seconds_of_updates"] for run in result["ways"][name]]
        for name in ("compiled", "packed over a mask")
    }
    return statistics.median(one - other for one, other in zip(*around.values(), strict=True))


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    main()
