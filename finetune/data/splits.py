"""One split as tokens and masks, with what it holds counted and what breaks the mask contract named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finetune.config import DataConfig, DataSource
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
class Split:
    """Rows ready for the model, in the order of the source; `examples` are those the rows came from."""

    examples: list[Example]
    rows: list[Encoded]
    stats: SplitStats


def encode_split(
    converted: list[Converted], role: Role, encoder: Encoder, config: DataConfig
) -> tuple[Split, list[Breach]]:
    """The rows of a split that can be trained on, and every breach of the mask contract.

    Rows that `data.on_truncation` drops are counted, and break nothing. Raises DataError where rows need a chat
    template and the tokenizer has none.
    """
    breaches = [Breach.of(role, one.row, one.fault) for one in converted if one.fault]
    examples = [example for one in converted for example in one.examples]
    inspector = Inspector(encoder)
    kept: list[tuple[Example, Encoded]] = []
    too_long = 0
    for example, row in zip(examples, _encoded(encoder, examples), strict=True):
        if isinstance(row, TemplateFault):
            breaches.append(Breach.of(role, example, breach(row.rule, row.detail)))
            continue
        longer = row.length > config.max_length
        too_long += longer
        if longer and config.on_truncation == "drop":
            continue
        breaches += [Breach.of(role, example, fault, row) for fault in inspector.faults(example, row)]
        if row.trained:
            kept.append((example, row))
    rows = [row for _, row in kept]
    source = _names(getattr(config, role) or config.train)
    stats = _stats(source, examples, rows, too_long, dropped=rows_of(converted) - len(rows))
    return Split([example for example, _ in kept], rows, stats), breaches


def rows_of(converted: list[Converted]) -> int:
    """Rows of a split before any is left out: each instance counts, and each row with a fault."""
    return sum(max(len(one.examples), 1) for one in converted)


def _stats(source: str, examples: list[Example], rows: list[Encoded], truncated: int, dropped: int) -> SplitStats:
    return SplitStats(
        source=source,
        format=", ".join(dict.fromkeys(example.format for example in examples)),
        rows=len(rows),
        tokens=sum(len(row.input_ids) for row in rows),
        trained_tokens=sum(row.trained for row in rows),
        longest=max((row.length for row in rows), default=0),
        truncated=truncated,
        dropped=dropped,
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


def _names(sources: str | list[DataSource]) -> str:
    return sources if isinstance(sources, str) else ", ".join(source.path for source in sources)
