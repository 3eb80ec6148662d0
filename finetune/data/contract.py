"""The mask contract: what has to hold of every row before it is trained or evaluated on, and what becomes of a breach.

breaches.py finds them. Here is what they are called, which of them a run refuses, and what is said of the others.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from finetune.config import DataConfig
from finetune.config.sections import MaskRule
from finetune.data.faults import RowFault, by_kind, refuse

if TYPE_CHECKING:
    from finetune.data.encode import Encoded
    from finetune.data.formats import Example
    from finetune.data.rows import Role, Row


LINE = re.compile(r" line (\d+)(?: instance \d+)?$")
"""Where a row stands, at the end of its `where`."""


@dataclass(frozen=True)
class Rule:
    """`what` rows have that break it, `description` in one sentence, and what to do (`hint`)."""

    what: str
    description: str
    hint: str


LONGER = "raise data.max_length, or leave long rows out with data.on_truncation=drop"

CONTRACT: dict[MaskRule, Rule] = {
    "no_trained_token": Rule(
        "no trained token",
        "nothing of the row is learned: its prompt fills data.max_length, or no turn of it is trained",
        LONGER,
    ),
    "untrained_stop": Rule(
        "no trained stop token",
        "the last trained turn ends without the token that ends a turn: the model would not learn to stop",
        "give the tokenizer an eos_token, or a template that ends every turn with one as data.chat_template",
    ),
    "doubled_bos": Rule(
        "a doubled BOS",
        "the row begins with two BOS tokens, as no row does that the model was trained on",
        "take BOS out of the rows' texts; a chat template, or the tokenizer, writes it",
    ),
    "truncated_answer": Rule(
        "a truncated answer",
        "trained text beyond data.max_length is cut off, and its stop token with it",
        f"{LONGER}; data.max_truncated is the share that may be cut",
    ),
    "empty_turn": Rule(
        "an empty turn",
        "a user's or assistant's turn says nothing and calls no tool",
        "write what belongs there, or delete these rows",
    ),
    "roles_out_of_order": Rule(
        "roles out of order",
        "turns are not: a system prompt or none, user and assistant in turn up to an answer, tools after their calls",
        "bring the turns in order, or delete these rows",
    ),
    "template_drops_turn": Rule(
        "a turn that the chat template leaves out",
        "the words or calls of a turn are not in the rendered text",
        "give a template that writes every turn as data.chat_template, or change the rows",
    ),
    "template_refuses_row": Rule(
        "a conversation that the chat template refuses",
        "the template ends in an error of its own on this conversation",
        "change the rows, or give another template as data.chat_template",
    ),
    "train_row_in_eval": Rule(
        "a copy among the training rows",
        "a held-out row has the same texts as one that is trained on: its loss is no held-out loss",
        "hold other rows out, or take copies out with `finetune data curate`",
    ),
}
"""The rules by the names that data.allow takes. Rows that the template does not write (the two rules named after it),
that have no trained token or that are no examples at all are left out where they are allowed."""


def breach(rule: MaskRule, detail: str) -> RowFault:
    """What is wrong with a row by a rule of the contract."""
    return RowFault(f"{CONTRACT[rule].what} ({rule})", CONTRACT[rule].hint, detail, rule=rule)


@dataclass(frozen=True)
class Breach:
    """A row of a split that breaks a rule. `where`, `source` and `index` are its example's; `row` is None where it has
    no tokens."""

    role: Role
    where: str
    source: str
    index: int
    fault: RowFault
    row: Encoded | None = None

    @classmethod
    def of(cls, role: Role, place: Row | Example, fault: RowFault, row: Encoded | None = None) -> Breach:
        """The breach of a row, or of one of its examples."""
        return cls(role, place.where, place.source, place.index, fault, row)

    @property
    def rule(self) -> str:
        """Its rule: a key of CONTRACT, or `untrainable`."""
        return self.fault.rule

    @property
    def line(self) -> int | None:
        """The line of its row, from 1, in a file that is read by lines."""
        found = LINE.search(self.where)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Contract:
    """All breaches of the splits of a run, each of which has so many `rows`. Copies by weight count each."""

    breaches: list[Breach] = field(default_factory=list)
    rows: dict[Role, int] = field(default_factory=dict)

    @cached_property
    def truncated(self) -> dict[Role, float]:
        """Share of each split's rows with a truncated answer."""
        found = Counter(one.role for one in self.breaches if one.rule == "truncated_answer")
        return {role: found[role] / rows for role, rows in self.rows.items()}

    def refused(self, config: DataConfig) -> list[Breach]:
        """The breaches for which a run is refused."""
        full = {role for role, share in self.truncated.items() if share > config.max_truncated}
        return [
            one
            for one in self.breaches
            if one.rule not in config.allow and (one.rule != "truncated_answer" or one.role in full)
        ]

    def require(self, config: DataConfig) -> None:
        """Raises DataError that names the rows of every refused breach."""
        found = self.refused(config)
        rules = dict.fromkeys(one.rule for one in found if one.rule in CONTRACT)
        advice = f"or accept it knowingly: data.allow=[{', '.join(rules)}]" if rules else ""
        refuse([(one.where, self._with_share(one, config)) for one in found], sum(self.rows.values()), advice)

    def notes(self, config: DataConfig) -> list[str]:
        """A line for each rule and split with breaches that are not refused."""
        refused = {id(one) for one in self.refused(config)}
        accepted = [one for one in self.breaches if id(one) not in refused]
        return [
            f"{role}: {line}"
            for role in self.rows
            for line in by_kind((one.where, self._with_share(one, config)) for one in accepted if one.role == role)
        ]

    def _with_share(self, one: Breach, config: DataConfig) -> RowFault:
        """The fault as it is said: with what decides whether it is refused."""
        what = one.fault.what
        if one.rule in config.allow:
            what += ", as data.allow has it" + ("" if one.row and one.row.trained else ", left out")
        elif one.rule == "truncated_answer":
            share = f"{self.truncated[one.role]:.1%} of data.{one.role}"
            what += f", {share}, where data.max_truncated={config.max_truncated:g}"
        return RowFault(what, one.fault.hint, one.fault.detail, rule=one.rule)
