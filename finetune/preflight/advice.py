"""What would make a run fit: the smallest changes, each priced, those first that cost least speed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.preflight.changes import Changes, Prices, words
from finetune.preflight.depth import Price
from finetune.preflight.largest import largest
from finetune.spec import RunSpec
from finetune.spec.feed_forward import PART

GIB = 2**30
SHORTEST = 128
"""Tokens below which a shorter sequence is no advice."""
WORTH = 0.005
"""Share of the memory below which a change is not worth what it costs."""
NEAR = 0.08
"""Share of the memory that advice may leave unused: finding the last token takes longer than it is worth."""
CHUNK = 4096
"""Tokens of the feed-forward part computed at once, where it is advised: of rows at least twice as long."""


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
    prices = Prices(spec)
    if prices(_least(spec)).process > allowed:
        return []
    single: list[Advice] = []
    for changes in _single_changes(prices, allowed):
        cost = prices(changes)
        if cost.process <= allowed:
            single.append(_advice(spec, changes, cost))
        if len(single) == most:
            break
    return single or _fewer(prices, allowed) or _shorter(prices, allowed) or [_together(prices, allowed)]


def _fewer(prices: Prices, allowed: int) -> list[Advice]:
    """Fewer completions sampled together, which are those of an update: the most whole groups that fit. Or completions
    half as long."""
    spec = prices.spec
    if not spec.config.training.online:
        return []
    half = {"rollout.max_completion_length": max(1, spec.config.rollout.max_completion_length // 2)}
    found = []
    for choices in (_fewer_passes(spec), [half]):
        priced = ((changes, prices(changes)) for changes in choices)
        found += [next(((changes, cost) for changes, cost in priced if cost.process <= allowed), None)]
    return [_advice(spec, *each) for each in found if each]


def _fewer_passes(spec: RunSpec) -> Iterator[Changes]:
    """Smaller effective batches of whole groups, the largest first."""
    training, group = spec.config.training, spec.config.rollout.num_generations
    for passes in range(training.gradient_accumulation_steps - 1, 0, -1):
        if passes * training.micro_batch_size % group == 0:
            yield {"training.gradient_accumulation_steps": passes}


def _shorter(prices: Prices, allowed: int) -> list[Advice]:
    """The longest sequence that fits, where no change helps that leaves the data as it is; less than half of it would
    cut most rows, and several changes together are better."""
    tokens = largest(prices, "data.max_length", allowed, near=NEAR)
    if not tokens or 2 * tokens < prices.spec.config.data.max_length:
        return []
    changes = {"data.max_length": tokens}
    return [_advice(prices.spec, changes, prices(changes))]


def _together(prices: Prices, allowed: int) -> Advice:
    """Changes one after another, those that help, until the run fits; a shorter sequence where all are not enough."""
    chosen: dict[str, Any] = {}
    best = prices({})
    for changes in _free_changes(prices.spec):
        cost = prices({**chosen, **changes})
        if cost.process < best.process * (1 - WORTH):
            chosen, best = {**chosen, **changes}, cost
        if best.process <= allowed:
            return _advice(prices.spec, chosen, best)
    if prices.spec.config.training.online:
        chosen |= _one_group(prices.spec, chosen.get("training.micro_batch_size"))
    tokens = largest(prices, "data.max_length", allowed, near=NEAR, beside=chosen)
    chosen |= {"data.max_length": tokens} if tokens else _shortest(prices.spec)
    return _advice(prices.spec, chosen, prices(chosen))


def _single_changes(prices: Prices, allowed: int) -> Iterator[Changes]:
    """Changes to try alone. The largest batch that fits is searched for, not halved."""
    spec = prices.spec
    for changes in _free_changes(spec):
        if "training.micro_batch_size" in changes:
            rows = largest(prices, "training.micro_batch_size", allowed, near=NEAR)
            if rows:
                yield {"training.micro_batch_size": _divisor(spec.config.training.effective_batch_size, rows)}
        else:
            yield changes


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`, with which the effective batch stays what it is."""
    return next(rows for rows in range(min(most, number), 0, -1) if number % rows == 0)


def _least(spec: RunSpec) -> Changes:
    """All changes at once, at the shortest sequence: the least that the run can take. Without offloading, which is
    slow to trace and moves next to nothing of so short a row."""
    merged = {key: value for changes in _free_changes(spec) for key, value in changes.items()}
    merged.pop("training.activation_offloading", None)
    if spec.config.training.online:
        merged |= _one_group(spec, merged.get("training.micro_batch_size"))
    return {**merged, **_shortest(spec)}


def _one_group(spec: RunSpec, rows: int | None) -> Changes:
    """The smallest effective batch of micro batches of `rows`, those of the run where None: one group, or several that
    fill whole ones."""
    group = spec.config.rollout.num_generations
    passes = group // math.gcd(group, rows or spec.config.training.micro_batch_size)
    return {"training.gradient_accumulation_steps": min(passes, spec.config.training.gradient_accumulation_steps)}


def _shortest(spec: RunSpec) -> Changes:
    """The shortest sequence that is advised; half of it is a completion, where the model samples them."""
    half = {"rollout.max_completion_length": SHORTEST // 2} if spec.config.training.online else {}
    return {"data.max_length": SHORTEST, **half}


def _free_changes(spec: RunSpec) -> Iterator[Changes]:
    """Changes that leave what is learned as it is, in the order of the speed that they cost, without those in place."""
    model, training, on_card = spec.config.model, spec.config.training, spec.device.kind == "cuda"
    if training.loss_kernel != "fused_linear":
        yield {"training.loss_kernel": "fused_linear"}
    if spec.attention == "eager" and model.attention == "eager":
        yield {"model.attention": "auto"}
    if not model.lean_norms:
        yield {"model.lean_norms": True}
    if not model.lean_gates:
        yield {"model.lean_gates": True}
    if model.fp32_unquantized:
        yield {"model.fp32_unquantized": False}
    if on_card and training.optimizer != "paged_adamw_8bit":
        yield {"training.optimizer": "paged_adamw_8bit"}
    if training.micro_batch_size > 1:
        yield {"training.micro_batch_size": 1}
    if spec.recomputed_layers < spec.layers:
        yield {"training.gradient_checkpointing": True}
    if on_card and not training.activation_offloading and not training.online:
        yield {"training.activation_offloading": True}
    if training.feed_forward_chunk is None and spec.config.data.max_length >= 2 * CHUNK and _takes_chunks(spec):
        yield {"training.feed_forward_chunk": CHUNK}
    if spec.config.quantization.type == "none":
        yield {"quantization.type": "nf4"}
    if spec.config.lora.r > 8:
        yield {"lora.r": 8}


def _takes_chunks(spec: RunSpec) -> bool:
    """Whether each layer has a feed-forward part that takes tokens one by one (`chunk_feed_forward`)."""
    parts = [tensor.name for tensor in spec.tensors if f".layers.0.{PART}." in tensor.name]
    return bool(parts) and not any("experts" in name for name in parts)


def _advice(spec: RunSpec, changes: Changes, cost: Price) -> Advice:
    text = f"`{words(spec.config, changes)}` would fit: {cost.process / GIB:.2f} GiB"
    return Advice(changes, text, cost.process)
