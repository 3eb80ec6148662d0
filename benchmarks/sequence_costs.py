"""What attention and recurrence cost and remember, measured at length.

    python benchmarks/sequence_costs.py [--json benchmarks/results/sequence_costs.json] [--only growth]

Time is processor time of one thread: growth with the tokens and its exponents, where one layer overtakes another, one
long sequence against many short ones; and associative recall over gaps, several seeds, with the learning rates that it
was chosen by. About half an hour.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

from finetune.sequence import recall, studies

SIZES = tuple(int(size) for size in np.geomspace(2048, 8192, 5).round())
"""From 2,048 tokens the scores of a head are larger than a core's caches, and one regime holds."""
OVERTAKING = (64, 128, 256, 512, 1024, 2048, 4096)
WIDTH = 256
TOKENS, LENGTH = 4096, 64
GAPS, UPDATES, SEEDS = (0, 4, 8, 16, 32, 64, 128), 1_000, (0, 1, 2)
RATES, RATE_GAPS, RATE_SEED = (3e-4, 1e-3, 3e-3, 1e-2), (0, 16), 100


def main() -> None:
    """Measures what was asked for, prints as it goes, and writes after each part; other parts stay as they are."""
    options = _arguments()
    parts = {
        "growth": lambda: {"sizes": SIZES, "growth": studies.growth(SIZES, _say)},
        "overtaking": lambda: {"sizes": OVERTAKING, **studies.overtaking(OVERTAKING, WIDTH)},
        "waiting": lambda: {"tokens": TOKENS, "length": LENGTH, "seconds_a_token": studies.waiting(TOKENS, LENGTH)},
        "rates": rates,
        "recall": lambda: {"updates": UPDATES, "models": studies.recalled(GAPS, UPDATES, SEEDS, _say)},
    }
    for name in options.only or parts:
        found = {**parts[name](), "environment": environment()}
        print(name, "done", flush=True)
        if options.json:
            result = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
            options.json.write_text(json.dumps(result | {name: found}, indent=1) + "\n", encoding="utf-8")


def rates() -> dict[str, Any]:
    """Accuracy by model and gap at each learning rate, on a seed that is not among SEEDS."""
    return {
        name: {
            str(gap): {str(rate): recall.recall(name, gap, UPDATES, RATE_SEED, rate).accuracy for rate in RATES}
            for gap in RATE_GAPS
        }
        for name in recall.RATES
    }


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--only", action="append", help="this part alone", choices=[
        "growth", "overtaking", "waiting", "rates", "recall",
    ])  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
