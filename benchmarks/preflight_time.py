"""How long `finetune preflight` and `finetune plan` take for the 7B plans, and how much memory.

    python benchmarks/preflight_time.py [--rounds 5] [--json benchmarks/results/preflight_time.json] [CONFIG ...]

Each round is a process of its own: seconds from the libraries' being imported to the answer, and the highest resident
memory of the process, imports included. A second round asks for a card of 8 GiB, on which a plan for 24 does not fit
and advice is priced; a third asks for the whole plan of 50,000 examples on an RTX 4090. The configurations are those
in configs/ for cards.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from environment import REPO, environment

SECONDS, BYTES = 5.0, 2 * 2**30
"""What is allowed on two cores."""
SMALL = "8GiB"
CARD, EXAMPLES = "RTX 4090", 50_000
MEASURE = """
import json, sys, time
import finetune.pipeline
from finetune.training import peak_resident
start = time.perf_counter()
from finetune.config import load_config
config, card, examples = load_config(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
if examples:
    verdict = finetune.pipeline.plan_ahead(config, card, examples=examples).verdict
else:
    verdict = finetune.pipeline.look_ahead(config, card)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "bytes": peak_resident(), "allocated": verdict.prediction.allocated}))
"""


def main() -> None:
    """Measures, prints, writes; exits with 1 where one configuration takes more than is allowed."""
    options = _arguments()
    rows = {config.stem: _measure(config, options.rounds) for config in options.configs or _plans()}
    for name, row in rows.items():
        times = (
            f"{row['seconds']:7.2f} s, with advice {row['seconds_with_advice']:.2f} s, plan {row['seconds_plan']:.2f} s"
        )
        print(f"{name:<28}{times}, {row['bytes'] / 2**30:.2f} GiB")
    slow = [name for name, row in rows.items() if _slowest(row) > SECONDS or row["bytes"] > BYTES]
    result = {"allowed": {"seconds": SECONDS, "bytes": BYTES}, "configs": rows, "environment": environment()}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(f"over {SECONDS:.0f} s or {BYTES / 2**30:.0f} GiB: {', '.join(slow)}" if slow else 0)


def _plans() -> list[Path]:
    return sorted((REPO / "configs").glob("qlora_r16*.yaml"))


def _slowest(row: dict[str, Any]) -> float:
    return max(row["seconds"], row["seconds_with_advice"], row["seconds_plan"])


def _measure(config: Path, rounds: int) -> dict[str, Any]:
    """The median of the seconds, each round's, and the most memory."""
    runs = [_run(config) for _ in range(rounds)]
    advised = [_run(config, SMALL) for _ in range(rounds)]
    planned = [_run(config, CARD, EXAMPLES) for _ in range(rounds)]
    return {
        "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
        "rounds": [round(run["seconds"], 2) for run in runs],
        "seconds_with_advice": round(statistics.median(run["seconds"] for run in advised), 2),
        "seconds_plan": round(statistics.median(run["seconds"] for run in planned), 2),
        "bytes": max(run["bytes"] for run in [*runs, *advised, *planned]),
        "allocated_bytes": runs[0]["allocated"],
    }


def _run(config: Path, card: str = "", examples: int = 0) -> dict[str, Any]:
    paths = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")]))
    variables = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(config), card, str(examples)], capture_output=True, text=True, env=variables
    )
    if done.returncode:
        sys.exit(f"{config.name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "configs", nargs="*", type=Path, help="configurations; the plans in configs/ where none is given"
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes for each configuration")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
