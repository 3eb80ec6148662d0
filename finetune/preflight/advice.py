"""What would make a run fit: the smallest changes, each priced, those first that cost least speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.preflight.changes import Changes, changed, words
from finetune.preflight.depth import Price, price
from finetune.preflight.largest import largest
from finetune.spec import RunSpec, resolve

GIB = 2**30
SHORTEST = 128
"""Tokens below which a shorter sequence is no advice."""
NEAR = 0.08
"""Share of the memory that advice may leave unused: finding the last token takes longer than it is worth."""


@dataclass(frozen=True)
class Advice:
    """Keys to change, as they are written after a command, and the bytes that the run takes with them."""

    changes: Changes
    text: str
    process: int

    def to_json(self) -> dict[str, Any]:
        """The object under `changes` in the verdict."""
        return {"set": dict(self.changes), "text": self.text, "process_bytes": self.process}


def advise(spec: RunSpec, allowed: int, most: int = 3) -> list[Advice]:
    """Up to `most` single changes that bring a run under `allowed` bytes of process memory, cheapest in speed first;
    where none does alone, several together. Empty where nothing helps."""
    everything = _merged(_free_changes(spec))
    if _price(spec, everything | {"data.max_length": SHORTEST}).process > allowed:
        return []
    single: list[Advice] = []
    for changes in _single_changes(spec, allowed):
        cost = _price(spec, changes)
        if cost.process <= allowed:
            single.append(Advice(changes, _sentence(spec, changes, cost), cost.process))
        if len(single) == most:
            break
    return single or [_together(spec, allowed)]


def _together(spec: RunSpec, allowed: int) -> Advice:
    """Changes one after another, those that help, until the run fits; a shorter sequence where all are not enough."""
    chosen: dict[str, Any] = {}
    best = price(spec)
    for changes in _free_changes(spec):
        cost = _price(spec, {**chosen, **changes})
        if cost.process < best.process:
            chosen, best = {**chosen, **changes}, cost
        if best.process <= allowed:
            return Advice(chosen, _sentence(spec, chosen, best), best.process)
    reduced = resolve(changed(spec.config, chosen), spec.device)
    chosen["data.max_length"] = largest(reduced, "data.max_length", allowed, near=NEAR) or SHORTEST
    best = _price(spec, chosen)
    return Advice(chosen, _sentence(spec, chosen, best), best.process)


def _single_changes(spec: RunSpec, allowed: int) -> Iterator[Changes]:
    """Changes to try alone. The largest batch and the longest sequence that fit are searched for, not halved."""
    for changes in _free_changes(spec):
        if "training.micro_batch_size" in changes:
            rows = largest(spec, "training.micro_batch_size", allowed, near=NEAR)
            if rows:
                yield {"training.micro_batch_size": _divisor(spec.config.training.effective_batch_size, rows)}
        else:
            yield changes
    tokens = largest(spec, "data.max_length", allowed, near=NEAR)
    if tokens and 2 * tokens >= spec.config.data.max_length:  # less than half cuts most rows: the last resort
        yield {"data.max_length": tokens}


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`, with which the effective batch stays what it is."""
    return next(rows for rows in range(min(most, number), 0, -1) if number % rows == 0)


def _merged(all_changes: Iterator[Changes]) -> dict[str, Any]:
    return {key: value for changes in all_changes for key, value in changes.items()}


def _free_changes(spec: RunSpec) -> Iterator[Changes]:
    """Changes that leave what is learned as it is, in the order of the speed that they cost, without those in place."""
    model, training, on_card = spec.config.model, spec.config.training, spec.device.kind == "cuda"
    if training.loss_kernel != "fused_linear":
        yield {"training.loss_kernel": "fused_linear"}
    if spec.attention == "eager" and model.attention == "eager":
        yield {"model.attention": "auto"}
    if model.fp32_unquantized:
        yield {"model.fp32_unquantized": False}
    if on_card and training.optimizer != "paged_adamw_8bit":
        yield {"training.optimizer": "paged_adamw_8bit"}
    if training.micro_batch_size > 1:
        yield {"training.micro_batch_size": 1}
    if not training.gradient_checkpointing:
        yield {"training.gradient_checkpointing": True}
    if on_card and not training.activation_offloading:
        yield {"training.activation_offloading": True}
    if spec.config.quantization.type == "none":
        yield {"quantization.type": "nf4"}
    if spec.config.lora.r > 8:
        yield {"lora.r": 8}


def _price(spec: RunSpec, changes: Changes) -> Price:
    return price(resolve(changed(spec.config, changes), spec.device))


def _sentence(spec: RunSpec, changes: Changes, cost: Price) -> str:
    return f"`{words(spec.config, changes)}` would fit: {cost.process / GIB:.2f} GiB"
