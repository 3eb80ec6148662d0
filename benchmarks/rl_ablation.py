"""Deep Q-learning on CartPole without its target network, its replay, or both: returns and alarms of every evaluation.

    python benchmarks/rl_ablation.py [--seeds 5] [--steps N] [--json FILE]

Settings are those of finetune/rl/ablation.py, found on seed 0; seeds begin at 100. Raw: a list of each column for each
seed, one entry an evaluation. An evaluation is the mean return of 20 greedy episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from rl_solved import FIRST_SEED, facts

from finetune.rl.ablation import CRUTCHES, WHOLE, watch


def main() -> None:
    """Runs every variant over the seeds, prints as it goes, and writes."""
    options = _arguments()
    torch.set_num_threads(1)
    seeds = list(range(FIRST_SEED, FIRST_SEED + options.seeds))
    changed = {"steps": options.steps} if options.steps else {}
    result: dict[str, Any] = {"seeds": seeds, "settings": dataclasses.asdict(WHOLE) | changed, "variants": {}}
    for name in CRUTCHES:
        result["variants"][name] = [watch(name, seed, **changed) for seed in seeds]
        print(f"{name:<18} best returns {[max(run['returns']) for run in result['variants'][name]]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result | {"environment": facts()}, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--steps", type=int, help="environment steps of a training")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
