"""From `data:` in the configuration to tokenised, masked and packed data sets, with everything counted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune.config import DataConfig, DataSource
from finetune.data.collate import Collator
from finetune.data.encode import Encoded, Encoder
from finetune.data.faults import count_of
from finetune.data.formats import Example, to_examples
from finetune.data.notes import notes_of
from finetune.data.packs import to_dataset
from finetune.data.rows import Role, Row, read_rows
from finetune.errors import DataError
from finetune.spec import RunSpec, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


SAMPLE_TOKENS = 512
"""Longest row that becomes a sample in the report: longer ones are no reading for people."""


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


@dataclass(frozen=True)
class Sample:
    """A held-out question for the report: what was asked, as words and as the model reads it, and the data's answer."""

    prompt: str
    rendered: str
    reference: str


@dataclass(frozen=True)
class LoadedData:
    """All that a trainer needs of the data. `notes` say aloud what was found and decided."""

    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    train: Split
    eval: Split | None
    train_dataset: Dataset
    notes: list[str] = field(default_factory=list)

    @property
    def collator(self) -> Collator:
        """What makes a batch of rows."""
        return Collator(self.tokenizer.pad_token_id)

    def samples(self, count: int) -> list[Sample]:
        """`count` held-out questions that are short and answered in words, evenly spread; plain text has none."""
        rows = zip(self.eval.examples, self.eval.rows, strict=True)
        fitting = [example for example, row in rows if row.length <= SAMPLE_TOKENS and _answered(example)]
        spread = [fitting[index * len(fitting) // count] for index in range(min(count, len(fitting)))]
        return [self._sample(example) for example in spread]

    def _sample(self, example: Example) -> Sample:
        first = _first_answer(example)
        asked, answer = example.messages[first - 1 : first + 1]
        return Sample(asked["content"], self.encoder.prompt(example), answer["content"])


def load_data(spec: RunSpec) -> LoadedData:
    """Reads, converts, tokenises and masks the rows that a run trains and evaluates on.

    Raises ConfigError for what cannot be found and DataError for what cannot be trained on.
    """
    config = spec.config.data
    train_rows, eval_rows = _read(spec)
    tokenizer = load_tokenizer(spec.source, config.chat_template)
    encoder = Encoder(tokenizer, loss_on=config.loss_on, max_length=config.max_length)
    train = _encode_split(train_rows, "train", spec, encoder)
    held_out = _encode_split(eval_rows, "eval", spec, encoder) if any(eval_rows) else None
    dataset = to_dataset(train.rows, packing=config.packing, max_length=config.max_length)
    notes = notes_of(train, held_out, encoder, config)
    if config.packing:
        full = train.stats.tokens / (len(dataset) * config.max_length)
        notes.append(
            f"{train.stats.rows:,} rows packed into {len(dataset):,} of {config.max_length} tokens, {full:.1%} full"
        )
    return LoadedData(tokenizer, encoder, train, held_out, dataset, notes)


def _first_answer(example: Example) -> int:
    return next(index for index, message in enumerate(example.messages) if message["role"] == "assistant")


def _answered(example: Example) -> bool:
    """Whether a turn of words answers another turn."""
    first = _first_answer(example) if example.messages else 0
    return first > 0 and bool(example.messages[first]["content"])


def _read(spec: RunSpec) -> tuple[list[list[Row]], list[list[Row]]]:
    """Rows to train and to evaluate on, each by source. Copies of a row, which a weight makes, stay together."""
    config, seed = spec.config.data, spec.config.training.seed
    train = _by_source(config.train, "train", seed)
    if config.eval is not None:
        return train, _by_source(config.eval, "eval", seed)
    places = list(dict.fromkeys(row.where for rows in train for row in rows))
    held_out = set(random.Random(seed).sample(places, round(config.eval_fraction * len(places))))
    if config.eval_fraction and not 0 < len(held_out) < len(places):
        raise DataError(
            f"data.eval_fraction={config.eval_fraction} of {len(places)} rows leaves a split empty",
            "add rows or change the share",
        )
    kept = [[row for row in rows if row.where not in held_out] for rows in train]
    return kept, [[row for row in rows if row.where in held_out] for rows in train]


def _by_source(sources: str | list[DataSource], role: Role, seed: int) -> list[list[Row]]:
    if isinstance(sources, str) or not sources:
        return [read_rows(sources, role=role, seed=seed)]
    return [read_rows([source], role=role, seed=seed) for source in sources]


def _encode_split(sources: list[list[Row]], role: Role, spec: RunSpec, encoder: Encoder) -> Split:
    config = spec.config.data
    found = [to_examples(rows, config.format) for rows in sources if rows]
    examples = [example for part, _ in found for example in part]
    kept, encoded = [], []
    truncated = 0
    for example in examples:
        row = encoder.encode(example)
        too_long = row.length > config.max_length
        truncated += too_long
        if row.trained and not (too_long and config.on_truncation == "drop"):
            kept.append(example)
            encoded.append(row)
    if not encoded:
        raise _nothing_left(role, len(examples), config)
    stats = SplitStats(
        source=_names(getattr(config, role) or config.train),
        format=", ".join(dict.fromkeys(format for _, format in found)),
        rows=len(encoded),
        tokens=sum(len(row.input_ids) for row in encoded),
        trained_tokens=sum(row.trained for row in encoded),
        longest=max(row.length for row in encoded),
        truncated=truncated,
        dropped=len(examples) - len(encoded),
    )
    return Split(kept, encoded, stats)


def _nothing_left(role: Role, rows: int, config: DataConfig) -> DataError:
    if config.on_truncation == "drop":
        what, hint = "is as short as", "raise it, or set data.on_truncation=cut"
    else:
        what, hint = "has a trained token within", "raise it, so that answers are not cut off"
    return DataError(f"data.{role}: none of {count_of(rows, 'row')} {what} data.max_length={config.max_length}", hint)


def _names(sources: str | list[DataSource]) -> str:
    return sources if isinstance(sources, str) else ", ".join(source.path for source in sources)
