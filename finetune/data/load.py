"""From `data:` in the configuration to tokenised, masked and packed data sets, with everything counted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune.data.collate import Collator
from finetune.data.encode import Encoded, Encoder
from finetune.data.formats import Example, to_examples
from finetune.data.rows import Row, read_rows
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
    """A held-out question for the report: what a person asked, the model's rendered input, and the answer in the data."""

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
        """`count` held-out questions that fit, evenly spread; plain text has none."""
        fitting = [
            example
            for example, row in zip(self.eval.examples, self.eval.rows, strict=True)
            if example.messages and row.length <= SAMPLE_TOKENS
        ]
        spread = [fitting[index * len(fitting) // count] for index in range(min(count, len(fitting)))]
        return [self._sample(example) for example in spread]

    def _sample(self, example: Example) -> Sample:
        first = next(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
        asked = example.messages[first - 1]["content"] if first else ""
        return Sample(asked, self.encoder.prompt(example), example.messages[first]["content"])


def load_data(spec: RunSpec) -> LoadedData:
    """Reads, converts, tokenises and masks the rows that a run trains and evaluates on.

    Raises ConfigError for what cannot be found and DataError for what cannot be trained on.
    """
    config = spec.config.data
    train_rows, eval_rows = _read(spec)
    tokenizer = load_tokenizer(spec.source, config.chat_template)
    encoder = Encoder(tokenizer, loss_on=config.loss_on, max_length=config.max_length)
    train = _encode_split(train_rows, "train", spec, encoder)
    held_out = _encode_split(eval_rows, "eval", spec, encoder) if eval_rows else None
    splits = [split for split in (train, held_out) if split]
    dataset = to_dataset(train, packing=config.packing, max_length=config.max_length)
    notes = _notes(splits, config.format, config.max_length)
    if config.packing:
        full = train.stats.tokens / (len(dataset) * config.max_length)
        notes.append(
            f"{train.stats.rows:,} rows packed into {len(dataset):,} of {config.max_length} tokens, {full:.1%} full"
        )
    return LoadedData(tokenizer, encoder, train, held_out, dataset, notes)


def to_dataset(split: Split, *, packing: bool, max_length: int) -> Dataset:
    """A data set of `input_ids` and `labels`; packed, each row also has the `seq_lengths` of what it holds.

    Packs are filled by best-fit decreasing (TRL's `pack_dataset`): no row is cut.
    """
    from datasets import Dataset

    columns = {"input_ids": [row.input_ids for row in split.rows], "labels": [row.labels for row in split.rows]}
    dataset = Dataset.from_dict(columns)
    if not packing:
        return dataset
    from trl import pack_dataset

    return pack_dataset(dataset, max_length, "bfd")


def _read(spec: RunSpec) -> tuple[list[Row], list[Row]]:
    config, seed = spec.config.data, spec.config.training.seed
    rows = read_rows(config.train, role="train", seed=seed)
    if config.eval is not None:
        return rows, read_rows(config.eval, role="eval", seed=seed)
    held_out = set(random.Random(seed).sample(range(len(rows)), round(config.eval_fraction * len(rows))))
    if config.eval_fraction and not 0 < len(held_out) < len(rows):
        raise DataError(
            f"data.eval_fraction={config.eval_fraction} of {len(rows)} rows leaves a split empty",
            "add rows or change the share",
        )
    return [r for i, r in enumerate(rows) if i not in held_out], [r for i, r in enumerate(rows) if i in held_out]


def _encode_split(rows: list[Row], role: str, spec: RunSpec, encoder: Encoder) -> Split:
    config = spec.config.data
    examples, found = to_examples(rows, config.format)
    kept, encoded = [], []
    truncated = 0
    for example in examples:
        row = encoder.encode(example)
        truncated += row.length > config.max_length
        if row.trained and (config.on_truncation == "cut" or row.length <= config.max_length):
            kept.append(example)
            encoded.append(row)
    if not encoded:
        raise DataError(
            f"data.{role}: none of {len(examples)} rows has a trained token within data.max_length={config.max_length}",
            "raise data.max_length, or look with `finetune data preview`",
        )
    sources = getattr(config, role) or config.train
    stats = SplitStats(
        source=sources if isinstance(sources, str) else ", ".join(source.path for source in sources),
        format=found,
        rows=len(encoded),
        tokens=sum(len(row.input_ids) for row in encoded),
        trained_tokens=sum(row.trained for row in encoded),
        longest=max(row.length for row in encoded),
        truncated=truncated,
        dropped=len(examples) - len(encoded),
    )
    return Split(kept, encoded, stats)


def _notes(splits: list[Split], asked: str, max_length: int) -> list[str]:
    notes = []
    for split in splits:
        stats = split.stats
        how = "found by looking" if asked == "auto" else "as configured"
        share = stats.trained_tokens / stats.tokens
        notes.append(
            f"{stats.source}: {stats.rows:,} rows of format {stats.format} ({how}), {stats.tokens:,} tokens, "
            f"{share:.0%} of them trained, longest row {stats.longest:,}"
        )
        if stats.truncated:
            notes.append(f"{stats.source}: {stats.truncated:,} rows are longer than data.max_length={max_length}")
        if stats.dropped:
            notes.append(
                f"{stats.source}: {stats.dropped:,} rows left out, too long to keep a trained token or to be cut"
            )
    return notes
