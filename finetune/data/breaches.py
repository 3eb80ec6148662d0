"""Breaches of the mask contract, found in rows as the model will read them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from finetune.config.sections import MaskRule
from finetune.data.contract import Breach, breach
from finetune.data.encode import IGNORED, Encoded, Encoder
from finetune.data.faults import RowFault
from finetune.data.formats import Example
from finetune.data.rules.fingerprints import digest
from finetune.data.turns import Message

if TYPE_CHECKING:
    from finetune.data.splits import Split


class Inspector:
    """Looks at rows by themselves, as one encoder makes them."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.tokenizer = encoder.tokenizer

    def faults(self, example: Example, row: Encoded) -> list[RowFault]:
        """Every breach of a row, by the order of CONTRACT."""
        found: dict[MaskRule, str | None] = {
            "no_trained_token": self._untrained(row),
            "untrained_stop": self._unstopped(row),
            "doubled_bos": self._doubled_bos(row.input_ids),
            "truncated_answer": self._truncated(row),
        }
        if self.encoder.is_chat(example):
            found["empty_turn"] = _empty(example.messages)
            found["roles_out_of_order"] = _disorder(example.messages)
        return [breach(rule, detail) for rule, detail in found.items() if detail]

    def prompt_faults(self, example: Example, ids: list[int]) -> list[RowFault]:
        """Every breach of a prompt that has no answer yet."""
        found: dict[MaskRule, str | None] = {"doubled_bos": self._doubled_bos(ids)}
        if self.encoder.is_chat(example):
            messages = example.messages[: self.encoder.answered_turn(example)]
            found["empty_turn"] = _empty(messages)
            found["roles_out_of_order"] = _disorder([*messages, {"role": "assistant"}])
        return [breach(rule, detail) for rule, detail in found.items() if detail]

    def _untrained(self, row: Encoded) -> str | None:
        if row.trained:
            return None
        if row.lost:
            return f"its prompt fills data.max_length={self.encoder.max_length}"
        return f"none of its {row.length:,} tokens"

    def _truncated(self, row: Encoded) -> str | None:
        if not (row.lost and row.trained):
            return None
        return f"{row.lost:,} of {row.lost + row.trained:,} trained tokens lost"

    def _unstopped(self, row: Encoded) -> str | None:
        """The token that ends what is trained, where that is no stop token; white space may follow one."""
        if row.lost:
            return None
        for label in reversed(row.labels):
            if label in self._stops:
                return None
            if label != IGNORED and (text := self.tokenizer.decode([label])).strip():
                return f"ends with {text!r}"
        return None

    def _doubled_bos(self, ids: list[int]) -> str | None:
        bos = self.tokenizer.bos_token_id
        if bos is None or ids[:1] != [bos] or bos not in ids[1:4]:
            return None
        second = ids.index(bos, 1)
        between = self.tokenizer.decode(ids[1:second])
        return f"tokens 1 and {second + 1}" if not between.strip() else None

    @cached_property
    def _stops(self) -> frozenset[int]:
        """EOS and all other special tokens that may end a turn: which of them does is the template's choice."""
        added = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset((added | set(self.tokenizer.all_special_ids)) - self._never)

    @property
    def _never(self) -> set[int | None]:
        """Special tokens that end no turn: BOS, unless it is also EOS."""
        return {self.tokenizer.bos_token_id} - {self.tokenizer.eos_token_id}


def leaks(train: Split, held_out: Split) -> Iterator[Breach]:
    """Held-out rows whose texts are those of a training row, by the same digest as exact copies."""
    first: dict[int, str] = {}
    for example in train.examples:
        first.setdefault(digest([example]), example.where)
    for example, row in zip(held_out.examples, held_out.rows, strict=True):
        if copied := first.get(digest([example])):
            detail = "itself" if copied == example.where else f"the same as {copied}"
            yield Breach.of("eval", example, breach("train_row_in_eval", detail), row)


def _empty(messages: list[Message]) -> str | None:
    """The first turn that says nothing. A system prompt may be empty, and so may what a tool gives back."""
    for turn, message in enumerate(messages, start=1):
        says = message["content"].strip() or message.get("tool_calls") or message.get("reasoning_content")
        if not says and message["role"] in ("user", "assistant"):
            return f"turn {turn} ({message['role']})"
    return None


def _disorder(messages: list[Message]) -> str | None:
    """The first turn that is out of order. A call need not be answered by a tool."""
    before = calls = None
    for turn, message in enumerate(messages, start=1):
        role = message["role"]
        if role == "system" and turn > 1:
            return f"turn {turn}: system, but not first"
        if role == "assistant" and before in (None, "system"):
            return f"turn {turn}: assistant, before any user"
        if role == "tool" and not (calls or before == "tool"):
            return f"turn {turn}: tool, after no call"
        if role == before and role != "tool" and not calls:
            return f"turn {turn}: {role} after {role}"
        before, calls = role, message.get("tool_calls")
    return f"ends with a turn of {before}" if before != "assistant" else None
