"""From `data:` in the configuration to tokenised, masked and packed data sets, with everything counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune.config import DataConfig
from finetune.data.breaches import leaks
from finetune.data.collate import Collator
from finetune.data.contract import Breach, Contract
from finetune.data.encode import Encoder
from finetune.data.faults import count_of
from finetune.data.formats import Example
from finetune.data.notes import notes_of
from finetune.data.packs import to_dataset
from finetune.data.rows import Role
from finetune.data.sources import read_splits
from finetune.data.splits import Split, encode_split, rows_of
from finetune.errors import DataError
from finetune.spec import RunSpec, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


SAMPLE_TOKENS = 512
"""Longest row that becomes a sample in the report: longer ones are no reading for people."""


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


@dataclass(frozen=True)
class Examined:
    """The splits of `data:` before a run takes or refuses them."""

    encoder: Encoder
    train: Split
    eval: Split | None
    contract: Contract

    def require_fit(self, config: DataConfig) -> Examined:
        """Itself. Raises DataError where a breach of the mask contract is refused, or no row is left."""
        refused = {(one.role, one.rule) for one in self.contract.refused(config)}
        for role in self.contract.rows:
            split = getattr(self, role)
            others = {rule for where, rule in refused if where == role} - {"no_trained_token"}
            if not split.rows and not others:
                raise _nothing_left(role, self.contract, config)
        self.contract.require(config)
        return self


def load_data(spec: RunSpec) -> LoadedData:
    """Reads, converts, tokenises and masks the rows that a run trains and evaluates on.

    Raises ConfigError for what cannot be found and DataError for what cannot be trained on.
    """
    config = spec.config.data
    tokenizer = load_tokenizer(spec.source, config.chat_template)
    examined = examine(config, tokenizer, spec.config.training.seed).require_fit(config)
    train, encoder = examined.train, examined.encoder
    dataset = to_dataset(train.rows, packing=config.packing, max_length=config.max_length)
    notes = notes_of(train, examined.eval, encoder, config) + examined.contract.notes(config)
    if config.packing:
        full = train.stats.tokens / (len(dataset) * config.max_length)
        notes.append(
            f"{train.stats.rows:,} rows packed into {len(dataset):,} of {config.max_length} tokens, {full:.1%} full"
        )
    return LoadedData(tokenizer, encoder, train, examined.eval, dataset, notes)


def examine(config: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> Examined:
    """Both splits as tokens, and all that breaks the mask contract in them; refuses no row. Raises as `load_data`."""
    encoder = Encoder(tokenizer, loss_on=config.loss_on, max_length=config.max_length)
    converted = read_splits(config, seed)
    splits: dict[Role, Split] = {}
    breaches: list[Breach] = []
    for role, part in converted.items():
        splits[role], found = encode_split(part, role, encoder, config)
        breaches += found
    train, held_out = splits["train"], splits.get("eval")
    if held_out:
        breaches += leaks(train, held_out)
    rows = {role: rows_of(part) for role, part in converted.items()}
    return Examined(encoder, train, held_out, Contract(breaches, rows))


def _first_answer(example: Example) -> int:
    return next(index for index, message in enumerate(example.messages) if message["role"] == "assistant")


def _answered(example: Example) -> bool:
    """Whether a turn of words answers another turn."""
    first = _first_answer(example) if example.messages else 0
    return first > 0 and bool(example.messages[first]["content"])


def _nothing_left(role: Role, contract: Contract, config: DataConfig) -> DataError:
    limit = f"data.max_length={config.max_length}"
    if any(one.role == role and one.row is None for one in contract.breaches):
        what, hint = "is left, with what data.allow leaves out", "change the rows"
    elif config.on_truncation == "drop":
        what, hint = f"is as short as {limit}", "raise it, or set data.on_truncation=cut"
    else:
        what, hint = f"has a trained token within {limit}", "raise it, so that answers are not cut off"
    return DataError(f"data.{role}: none of {count_of(contract.rows[role], 'row')} {what}", hint)
