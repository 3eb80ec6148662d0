"""From `data:` in the configuration to tokenised, masked and packed data sets, with everything counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute

from finetune.config import DataConfig, RunConfig
from finetune.data.breaches import leaks
from finetune.data.collate import Collator
from finetune.data.contract import Breach, Contract
from finetune.data.encode import Encoder
from finetune.data.faults import count_of
from finetune.data.formats import Example
from finetune.data.notes import notes_of
from finetune.data.packs import to_dataset
from finetune.data.pairs import pair_dataset, pairs_of, prompt_dataset
from finetune.data.prompts import prompt_split
from finetune.data.rows import Role
from finetune.data.sources import read_splits
from finetune.data.splits import Split, SplitStats, encode_split, rows_of
from finetune.data.streaming import Stream
from finetune.errors import DataError
from finetune.spec import RunSpec, load_tokenizer, varlen

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


TOKENS = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids")
"""Columns of tokens in the data sets of trainers."""

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
    """All that a trainer needs of the data. `notes` say aloud what was found and decided; `completion` is the longest
    that is sampled, in tokens. Where there is a `stream`, the training rows here are those of its first window.
    `by_length`: batches of packs say the lengths of their rows."""

    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    train: Split
    eval: Split | None
    train_dataset: Dataset
    notes: list[str] = field(default_factory=list)
    completion: int = 0
    stream: Stream | None = None
    by_length: bool = False

    @property
    def collator(self) -> Collator:
        """What makes a batch of rows."""
        return Collator(self.tokenizer.pad_token_id, self.by_length)

    def lengths(self) -> list[int]:
        """Tokens of each training row: of a pack all of its rows, of a pair its longer side, of a prompt with the
        longest completion."""
        present = [name for name in TOKENS if name in self.train_dataset.features]
        columns = {name: _row_lengths(self.train_dataset, name) for name in present}
        if "prompt_ids" in columns:
            return [prompt + max(sides) for prompt, *sides in zip(*columns.values(), strict=True)]
        return [tokens + self.completion for tokens in columns["input_ids"]]

    def row_lengths(self) -> list[int]:
        """The same, of a pack for each of its rows."""
        if "seq_lengths" not in self.train_dataset.features:
            return self.lengths()
        return [tokens for pack in self.train_dataset["seq_lengths"] for tokens in pack]

    def places(self, number: int) -> list[str]:
        """Where the row of that number in the training data set, or in the stream, was read: of a pack all that it
        holds."""
        if self.stream:
            return self.stream.places(number)
        if "members" in self.train_dataset.features:
            return [self.train.examples[row].where for row in self.train_dataset[number]["members"]]
        sides = 2 if self.train.examples[0].side else 1
        return [self.train.examples[sides * number].where]

    @property
    def train_stats(self) -> SplitStats:
        """What the training rows hold; of a stream those that the run has read."""
        return self.stream.seen.stats if self.stream and self.stream.seen.stats else self.train.stats

    @property
    def held_out(self) -> list[Any] | None:
        """The held-out rows as the trainer of the method takes them: pairs, prompts, or rows with labels."""
        if self.eval is None:
            return None
        first = self.eval.examples[0]
        if first.side:
            return pairs_of(self.eval.rows)
        return self.eval.prompts or self.eval.rows

    def samples(self, count: int) -> list[Sample]:
        """`count` held-out questions that are short and answered in words, evenly spread; plain text has none."""
        rows = zip(self.eval.examples, self.eval.rows, strict=True)
        fitting = [example for example, row in rows if row.length <= SAMPLE_TOKENS and _readable(example)]
        spread = [fitting[index * len(fitting) // count] for index in range(min(count, len(fitting)))]
        return [self._sample(example) for example in spread]

    def _sample(self, example: Example) -> Sample:
        turn = _shown_turn(example)
        answer = example.messages[turn]["content"] if turn < len(example.messages) else ""
        return Sample(example.messages[turn - 1]["content"], self.encoder.prompt(example, turn), answer)


@dataclass(frozen=True)
class Examined:
    """The splits of `data:` before a run takes or refuses them; of a `stream` its first window."""

    encoder: Encoder
    train: Split
    eval: Split | None
    contract: Contract
    stream: Stream | None = None

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

    def notes(self, config: DataConfig) -> list[str]:
        """What of a stream was looked at, and each kind of breach that is not refused."""
        return [*(self.stream.notes_before() if self.stream else []), *self.contract.notes(config)]


def load_data(spec: RunSpec) -> LoadedData:
    """Reads, converts, tokenises and masks the rows that a run trains and evaluates on.

    Raises ConfigError for what cannot be found and DataError for what cannot be trained on.
    """
    config = spec.config.data
    tokenizer = load_tokenizer(spec.source, config.chat_template)
    examined = examine(spec.config, tokenizer).require_fit(config)
    train, encoder = examined.train, examined.encoder
    dataset = _dataset(train, spec.config)
    notes = notes_of(train, examined.eval, encoder, config) + examined.notes(config)
    if config.packing:
        full = train.stats.tokens / (len(dataset) * config.max_length)
        notes.append(
            f"{train.stats.rows:,} rows packed into {len(dataset):,} of {config.max_length} tokens, {full:.1%} full"
        )
    if spec.config.training.online:
        _require_prompts(train, spec.config)
    completion = spec.config.rollout.max_completion_length if spec.config.training.online else 0
    by_length = spec.attention == varlen.NAME
    return LoadedData(tokenizer, encoder, train, examined.eval, dataset, notes, completion, examined.stream, by_length)


def examine(run: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Examined:
    """Both splits as tokens, and all that breaks the mask contract in them; refuses no row. Raises as `load_data`."""
    config, method = run.data, run.training.method
    loss_on = "completion" if method == "dpo" else config.loss_on  # earlier answers are the same on both sides
    encoder = Encoder(tokenizer, loss_on=loss_on, max_length=config.max_length)
    stream = Stream(run, encoder) if config.streaming else None
    converted = read_splits(config, run.training.seed, method, train=stream and stream.converted(0))
    splits: dict[Role, Split] = {}
    breaches: list[Breach] = []
    for role, part in converted.items():
        splits[role], found = (
            prompt_split(part, role, encoder, run) if run.training.online else encode_split(part, role, encoder, config)
        )
        breaches += found
    train, held_out = splits["train"], splits.get("eval")
    if held_out:
        breaches += leaks(train, held_out)
    if stream:
        stream.held_out = held_out
    rows = {role: rows_of(part) for role, part in converted.items()}
    return Examined(encoder, train, held_out, Contract(breaches, rows), stream)


def _dataset(train: Split, run: RunConfig) -> Dataset:
    """The rows as the trainer of the run's method takes them."""
    if run.training.method == "dpo":
        return pair_dataset(train.rows)
    if run.training.online:
        return prompt_dataset(train.prompts)
    return to_dataset(train.rows, packing=run.data.packing, max_length=run.data.max_length)


def _require_prompts(train: Split, run: RunConfig) -> None:
    """Raises DataError where there are fewer prompts than one update answers: none would be made."""
    size, passes = run.rollout.num_generations, run.training.gradient_accumulation_steps
    found, asked = len(train.prompts), run.training.effective_batch_size // size
    if found < asked:
        raise DataError(
            f"data.train has {count_of(found, 'prompt')}, but an update answers {asked}, each {size} times",
            f"name more rows, or lower training.gradient_accumulation_steps={passes}",
        )


def _row_lengths(dataset: Dataset, column: str) -> list[int]:
    """Tokens of each row in a column, without making a Python number of every token."""
    return pyarrow.compute.list_value_length(dataset.with_format("arrow")[:][column]).to_pylist()


def _shown_turn(example: Example) -> int:
    """The turn that a sample shows: the first answer; of a preference the two answers, which come last; behind the last
    turn where nothing answers it."""
    turns = enumerate(example.messages)
    answers = [index for index, message in turns if message["role"] == "assistant"]
    if example.side:
        return answers[-1]
    return answers[0] if answers else len(example.messages)


def _readable(example: Example) -> bool:
    """Whether a sample can be shown: words after another turn. Of a preference the better answer is."""
    turn = _shown_turn(example) if example.messages and example.side != "rejected" else 0
    return turn > 0 and (turn == len(example.messages) or bool(example.messages[turn]["content"]))


def _nothing_left(role: Role, contract: Contract, config: DataConfig) -> DataError:
    limit = f"data.max_length={config.max_length}"
    if any(one.role == role and one.row is None for one in contract.breaches):
        what, hint = "is left, with what data.allow leaves out", "change the rows"
    elif config.on_truncation == "drop":
        what, hint = f"is as short as {limit}", "raise it, or set data.on_truncation=cut"
    else:
        what, hint = f"has a trained token within {limit}", "raise it, so that answers are not cut off"
    return DataError(f"data.{role}: none of {count_of(contract.rows[role], 'row')} {what}", hint)
