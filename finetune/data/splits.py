"""One split as tokens and masks, with what it holds counted and what breaks the mask contract named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from finetune.config import DataConfig
from finetune.data.breaches import Inspector
from finetune.data.contract import Breach, breach
from finetune.data.encode import Encoded, Encoder
from finetune.data.formats import Converted, Example
from finetune.data.rows import Role
from finetune.data.turns import TemplateFault


@dataclass(frozen=True)
class SplitStats:
    """What one split holds. Tokens are counted after cutting and without padding."""

    source: str
    format: str
    rows: int
    tokens: int
    trained_tokens: int
    longest: int
    truncated: int
    dropped: int


@dataclass(frozen=True)
class Prompt:
    """What a model is given to answer: the words `asked`, and `rendered` and tokenised as it reads them. `answer` is
    the row's own, `columns` all that the row holds."""

    where: str
    asked: str
    rendered: str
    input_ids: list[int]
    answer: str | None
    columns: dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Rows ready for the model, in the order of the source; `examples` are those the rows came from. The answers of a
    preference are two rows, the better first; a prompt's row has no label, and is one of `prompts` too."""

    examples: list[Example]
    rows: list[Encoded]
    stats: SplitStats
    prompts: list[Prompt] = field(default_factory=list)


def encode_split(
    converted: list[Converted], role: Role, encoder: Encoder, config: DataConfig
) -> tuple[Split, list[Breach]]:
    """The rows of a split that can be trained on, and every breach of the mask contract. The answers of a preference
    stay together: they are kept both or neither, and what both break is one breach.

    Rows that `data.on_truncation` drops are counted, and break nothing. Raises DataError where rows need a chat
    template and the tokenizer has none.
    """
    breaches = [Breach.of(role, one.row, one.fault) for one in converted if one.fault]
    examples = [example for one in converted for example in one.examples]
    inspector = Inspector(encoder)
    kept: list[tuple[Example, Encoded]] = []
    too_long = 0
    for unit in _units(list(zip(examples, _encoded(encoder, examples), strict=True))):
        unwritten = [(example, row) for example, row in unit if isinstance(row, TemplateFault)]
        if unwritten:
            example, fault = unwritten[0]
            breaches.append(Breach.of(role, example, breach(fault.rule, fault.detail)))
            continue
        longer = any(row.length > config.max_length for _, row in unit)
        too_long += longer
        if longer and config.on_truncation == "drop":
            continue
        found = {fault.rule: (example, fault, row) for example, row in unit for fault in inspector.faults(example, row)}
        breaches += [Breach.of(role, example, fault, row) for example, fault, row in found.values()]
        if all(row.trained for _, row in unit):
            kept += unit
    source = sources_of(role, config)
    stats = _stats(source, kept, too_long, rows_of(converted))
    return Split([example for example, _ in kept], [row for _, row in kept], stats), breaches


def rows_of(converted: list[Converted]) -> int:
    """Rows of a split before any is left out: each instance counts, a preference once, and each row with a fault."""
    return sum(max(_count(one.examples), 1) for one in converted)


def sources_of(role: Role, config: DataConfig) -> str:
    """The names of the sources that a split comes from."""
    sources = getattr(config, role) or config.train
    return sources if isinstance(sources, str) else ", ".join(source.path for source in sources)


def _units(encoded: list[tuple[Example, Any]]) -> Iterable[list[tuple[Example, Any]]]:
    """What is kept or left out together: an example alone, or the two answers of a preference."""
    step = 2 if encoded and encoded[0][0].side else 1
    return (encoded[start : start + step] for start in range(0, len(encoded), step))


def _count(examples: Iterable[Example]) -> int:
    return sum(example.side != "rejected" for example in examples)


def _stats(source: str, kept: list[tuple[Example, Encoded]], truncated: int, before: int) -> SplitStats:
    examples, rows = [example for example, _ in kept], [row for _, row in kept]
    return SplitStats(
        source=source,
        format=", ".join(dict.fromkeys(example.format for example in examples)),
        rows=_count(examples),
        tokens=sum(len(row.input_ids) for row in rows),
        trained_tokens=sum(row.trained for row in rows),
        longest=max((row.length for row in rows), default=0),
        truncated=truncated,
        dropped=before - _count(examples),
    )


def _encoded(encoder: Encoder, examples: list[Example]) -> Iterable[Encoded | TemplateFault]:
    """Each example's tokens, or why the template does not write it."""
    try:
        return list(encoder.encode_all(examples))
    except TemplateFault:
        return [_attempt(encoder, example) for example in examples]  # one by one, to name every one of them


def _attempt(encoder: Encoder, example: Example) -> Encoded | TemplateFault:
    try:
        return encoder.encode(example)
    except TemplateFault as fault:
        return fault
