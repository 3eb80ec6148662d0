"""How long may a row of Llama-3.1-8B be on 24 GiB, and what does each step of the way bring? Preflight, without a GPU.

    python benchmarks/long_context.py [--json benchmarks/results/long_context.json]

The plan is configs/qlora_r32_long.yaml with its parts switched off, and then on again one after another.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from environment import REPO

from finetune.config import load_config
from finetune.preflight import find_card, solve
from finetune.preflight.depth import price
from finetune.spec import RunSpec, describe

CONFIG, CARD = REPO / "configs" / "qlora_r32_long.yaml", "24GiB"
RESULT = REPO / "benchmarks" / "results" / "long_context.json"
OFF = {
    "training.activation_offloading": "false",
    "training.feed_forward_chunk": "null",
    "model.lean_norms": "false",
    "model.lean_gates": "false",
}
STEPS = {
    "checkpoints and fused loss alone": [],
    "inputs of layers in host memory": ["training.activation_offloading"],
    "feed-forward parts 4,096 tokens at once": ["training.activation_offloading", "training.feed_forward_chunk"],
    "lean norms and gates: the plan": list(OFF),
}
"""What is switched on at each step."""
PUBLISHED = 78_475
"""The longest row that was published for this run: Unsloth's figure for Llama-3.1-8B, rank 32, batch 1, on 24 GB."""
GIB = 2**30


def described(step: str, tokens: int) -> RunSpec:
    """The run of a step, with rows of so many tokens."""
    overrides = [f"{key}={value}" for key, value in OFF.items() if key not in STEPS[step]]
    return describe(load_config(CONFIG, [f"data.max_length={tokens}", *overrides]), find_card(CARD))


def measure() -> dict[str, Any]:
    """The longest rows of each step, and what they take."""
    found = {}
    for step in STEPS:
        tokens = solve(described(step, 32_768), "seq_len")
        memory = price(described(step, tokens))
        found[step] = {"tokens": tokens, "allocated_bytes": memory.allocated, "process_bytes": memory.process}
    return {"config": CONFIG.name, "card": CARD, "steps": found}


def tables() -> dict[str, str]:
    """The table of docs/speed.md."""
    lines = ["| on 24 GiB | longest row, tokens | allocated, GiB | process |", "| :--- | ---: | ---: | ---: |"]
    for step, one in json.loads(RESULT.read_text(encoding="utf-8"))["steps"].items():
        sizes = " | ".join(f"{one[name] / GIB:.2f}" for name in ("allocated_bytes", "process_bytes"))
        lines.append(f"| {step} | {one['tokens']:,} | {sizes} |")
    return {"long": "\n".join(lines)}


def main() -> None:
    """Computes, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    text = json.dumps(measure(), indent=1) + "\n"
    options.json.write_text(text, encoding="utf-8") if options.json else print(text, end="")


if __name__ == "__main__":
    main()
