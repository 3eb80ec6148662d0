"""The tables of docs/several-gpus.md, from preflight: what a card holds, and how long an update takes on several."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from finetune.config import load_config
from finetune.preflight import Verdict, find_card, preflight
from finetune.spec import describe

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "qlora_r16_llama-3.1-8b.yaml"
LARGE = "model.name_or_path=meta-llama/Llama-3.1-70B-Instruct"
ONE_PACK = ["training.micro_batch_size=1", "training.gradient_accumulation_steps=16"]
TWO_PACKS = ["training.micro_batch_size=2", "training.gradient_accumulation_steps=8"]
CASES = {
    ("8B", "RTX 4090"): TWO_PACKS,
    ("70B", "H100 SXM"): [LARGE, *TWO_PACKS],
    ("70B", "RTX A6000"): [LARGE, *ONE_PACK],
}
"""Overrides of the shipped plan; an update has the same 16 packs in all of them."""
SHARDED, SHARDS = "RTX 4090", (1, 2, 4, 8)
"""The card that 70B does not fit on by itself, and numbers of them that share the base out."""
GIB = 2**30


def verdicts() -> dict[tuple[str, str], Verdict]:
    """What preflight says of each model on each card."""
    found = {}
    for (model, card), overrides in CASES.items():
        config = load_config(CONFIG, ["hardware.memory=auto", *overrides])
        found[model, card] = preflight(describe(config, find_card(card)), examples=1)
    return found


def tables() -> dict[str, str]:
    """The tables of the page, by the names of their places."""
    found = verdicts()
    return {"cards": _cards(found), "shards": _shards(), "updates": _updates(found)}


def sharded(shards: int) -> Verdict:
    """What preflight says of 70B on each of so many cards."""
    config = load_config(CONFIG, ["hardware.memory=auto", LARGE, *ONE_PACK, f"hardware.shards={shards}"])
    return preflight(describe(config, find_card(SHARDED)), examples=1)


def _shards() -> str:
    lines = [
        f"| 70B, {SHARDED}, 1 pack at once | weights, GiB | gathered layers | allocated | process | fits "
        "| received in a pass |",
        "| :--- | ---: | ---: | ---: | ---: | :--- | ---: |",
    ]
    for shards in SHARDS:
        verdict = sharded(shards)
        memory, whole = verdict.prediction, verdict.spec.parameters.quantized / 2  # in 4 bits
        parts = (memory.breakdown["weights"], memory.breakdown.get("gathered layers", 0))
        figures = " | ".join(f"{size / GIB:.2f}" for size in (*parts, memory.allocated, memory.process))
        fits = "yes" if verdict.needed <= verdict.spec.device.memory_bytes else "no"
        received = 2 * (1 - 1 / shards) * whole / GIB  # in the forward and in the backward pass
        lines.append(f"| `hardware.shards={shards}` | {figures} | {fits} | {received:.1f} |")
    return "\n".join(lines)


def _cards(found: dict[tuple[str, str], Verdict]) -> str:
    lines = [
        "| model | each card | weights, GiB | allocated | process | the card has | gradients summed once an update |",
        "| :--- | :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (model, card), verdict in found.items():
        memory, spec = verdict.prediction, verdict.spec
        assert memory.process < spec.device.memory_bytes
        sizes = (memory.breakdown["weights"], memory.allocated, memory.process, spec.device.memory_bytes)
        figures = " | ".join(f"{size / GIB:.2f}" for size in sizes)
        summed = f"{spec.parameters.trainable:,} of 4 bytes, {spec.parameters.trainable * 4 / 2**20:,.0f} MiB"
        lines.append(f"| {model} | {card}, {verdict.batch.rows} packs at once | {figures} | {summed} |")
    return "\n".join(lines).replace("1 packs", "1 pack")


def _updates(found: dict[tuple[str, str], Verdict]) -> str:
    counts = (1, 2, 4, 8)
    titles = " | ".join("1 process" if count == 1 else f"{count} processes" for count in counts)
    lines = [
        f"| an update of 16 packs | {titles} |",
        f"| :--- |{' ---: |' * len(counts)}",
    ]
    for (model, card), verdict in found.items():
        low, high = verdict.duration.update
        shares = (dataclasses.replace(verdict.duration, update=(low / n, high / n), total=None) for n in counts)
        times = " | ".join(share.words().removesuffix(" an update") for share in shares)
        lines.append(f"| {model}, {card} | {times} |")
    return "\n".join(lines)
