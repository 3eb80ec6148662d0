"""How many layers of Llama-3.1-8B need not be recomputed on 24 GiB, and what that saves? Preflight, without a GPU.

    python benchmarks/kept_layers.py [--json benchmarks/results/kept_layers.json]

The plan is configs/qlora_r16_llama-3.1-8b.yaml with `training.gradient_checkpointing: auto`, its effective batch kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from environment import REPO

from finetune.config import load_config
from finetune.preflight import decide_recomputing, find_card, predict
from finetune.preflight.recomputing import KEY
from finetune.spec import RunSpec, describe

CONFIG, CARD = REPO / "configs" / "qlora_r16_llama-3.1-8b.yaml", "24GiB"
RESULT = REPO / "benchmarks" / "results" / "kept_layers.json"
BATCHES = (4, 2, 1)
GIB = 2**30


def described(rows: int, value: str) -> RunSpec:
    """The plan in micro batches of so many packs, with `value` for what is recomputed."""
    overrides = [f"training.micro_batch_size={rows}", f"training.gradient_accumulation_steps={16 // rows}"]
    return decide_recomputing(describe(load_config(CONFIG, [f"{KEY}={value}", *overrides]), find_card(CARD)))


def measure() -> dict[str, Any]:
    """Of each micro batch the layers that are recomputed, and memory and operations beside those where all are."""
    found = {}
    for rows in BATCHES:
        auto, full = described(rows, "auto"), described(rows, "true")
        chosen, whole = predict(auto), predict(full)
        found[str(rows)] = {
            "recomputed_layers": auto.recomputed_layers,
            "layers": auto.layers,
            "allocated_bytes": chosen.allocated,
            "process_bytes": chosen.process,
            "recomputing_process_bytes": whole.process,
            "flops_share": round(chosen.flops / whole.flops, 4),
        }
    return {"config": CONFIG.name, "card": CARD, "micro_batches": found}


def tables() -> dict[str, str]:
    """The table of docs/speed.md."""
    lines = [
        "| packs of 2,048 tokens at once | layers recomputed | process, GiB | with all recomputed | operations |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for rows, one in json.loads(RESULT.read_text(encoding="utf-8"))["micro_batches"].items():
        sizes = " | ".join(f"{one[name] / GIB:.2f}" for name in ("process_bytes", "recomputing_process_bytes"))
        layers = f"{one['recomputed_layers']} of {one['layers']}"
        lines.append(f"| {rows} | {layers} | {sizes} | {one['flops_share']:.0%} |")
    return {"kept": "\n".join(lines)}


def main() -> None:
    """Computes, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    text = json.dumps(measure(), indent=1) + "\n"
    options.json.write_text(text, encoding="utf-8") if options.json else print(text, end="")


if __name__ == "__main__":
    main()
