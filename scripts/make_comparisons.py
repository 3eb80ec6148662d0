"""Questions with one right answer and a required form, for trying rewards: `python scripts/make_comparisons.py [DIR]`.

Writes DIR/train.jsonl and DIR/eval.jsonl (data/comparisons where absent): rows of prompt and answer, no pair of numbers
in both.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

TRAIN, EVAL = 512, 64


def main(folder: str = "data/comparisons") -> None:
    """Writes both files."""
    pairs = list(itertools.permutations(range(1, 100), 2))
    chosen = random.Random(0).sample(pairs, TRAIN + EVAL)
    for name, part in {"train": chosen[:TRAIN], "eval": chosen[TRAIN:]}.items():
        path = Path(folder) / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(_row(*pair))}\n" for pair in part), encoding="utf-8")


def _row(left: int, right: int) -> dict[str, str]:
    return {
        "prompt": f"Is {left} greater than {right}? Answer with yes or no.",
        "answer": "yes" if left > right else "no",
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
