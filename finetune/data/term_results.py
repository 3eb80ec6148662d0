"""What `finetune data senses` found, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.data.faults import NAMED, count_of
from finetune.data.rows import Role
from finetune.senses.collisions import Blurred, Difference, SamePrompt
from finetune.senses.usage import FEWEST, SPLIT


@dataclass
class SplitUse:
    """A term in one split: its occurrences, in how many rows, and how many stand in prompts and in answers;
    `undecided` and `of_none` of the told senses, of those looked at."""

    occurrences: int
    rows: int
    in_prompts: int
    in_answers: int
    undecided: int = 0
    of_none: int = 0

    def to_json(self) -> dict[str, int]:
        """All counts."""
        return dict(vars(self))


@dataclass(frozen=True)
class SenseUse:
    """A sense with its occurrences by split and some of them; `words` that tell an induced one from the others."""

    name: str
    words: list[str]
    occurrences: dict[Role, int]
    examples: list[str]

    def shares(self, senses: list[SenseUse]) -> dict[Role, float | None]:
        """Of the occurrences of all senses in each split; None where it has none."""
        totals = {role: sum(one.occurrences[role] for one in senses) for role in self.occurrences}
        return {role: self.occurrences[role] / total if total else None for role, total in totals.items()}


@dataclass
class TermSenses:
    """The senses of one term; of `looked_at` occurrences, in so many `different` contexts. `told`: the file of terms
    names them. `apart`: see `usage.Usage`."""

    term: str
    told: bool
    splits: dict[Role, SplitUse]
    looked_at: int = 0
    different: int = 0
    apart: float | None = None
    senses: list[SenseUse] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    blurred: list[Blurred] = field(default_factory=list)
    same_prompt: list[SamePrompt] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """What limits the figures."""
        if lacking := [role for role, use in self.splits.items() if not use.occurrences]:
            yield f"no occurrence in {' or '.join(lacking)}: check its spelling, or leave it out"
        if self.looked_at < (total := sum(use.occurrences for use in self.splits.values())):
            yield f"senses of {self.looked_at:,} occurrences, a seeded sample of {total:,}"
        if self.apart is not None and self.different < FEWEST:
            yield f"one sense: {count_of(self.different, 'different context')} are too few to part, {FEWEST} are needed"
        elif self.apart is not None and self.apart < SPLIT:
            yield f"one sense: its contexts do not fall apart (z {self.apart:.1f}, needed {SPLIT})"

    def findings(self) -> Iterator[str]:
        """Differences and collisions, each with what to do."""
        for one in self.differences:
            yield _difference(one)
        for one in self.blurred:
            yield (
                f"collision: {' and '.join(one.senses)} blur: of {one.occurrences:,} occurrences nearest to the two "
                f"{one.undecided:,} are undecided; say in the rows which is meant, or give the senses better examples"
            )
        for one in self.same_prompt[:NAMED]:
            rows = "; ".join(f"{sense} in {_some(found)}" for sense, found in one.rows.items())
            yield (
                f'collision: one prompt, several senses: "{one.prompt}" ({rows}); say in the prompt which is meant, or '
                "drop the rows of one sense"
            )
        if len(self.same_prompt) > NAMED:
            yield f"and {len(self.same_prompt) - NAMED:,} more prompts with several senses (--json names all)"

    def to_json(self) -> dict[str, Any]:
        """One of `terms` in the command's JSON."""
        return {
            "term": self.term,
            "told": self.told,
            **{role: use.to_json() for role, use in self.splits.items()},
            "apart": self.apart,
            "senses": [
                {
                    "sense": one.name, "words": one.words, "occurrences": one.occurrences,
                    "shares": one.shares(self.senses), "examples": one.examples,
                }
                for one in self.senses
            ],
            **{
                kind: [{**vars(one)} for one in self.differences if one.kind == kind]
                for kind in ("missing", "rarer", "unseen")
            },
            "collisions": {
                "blurred": [{**vars(one), "senses": list(one.senses)} for one in self.blurred],
                "same_prompt": [dict(vars(one)) for one in self.same_prompt],
            },
            "notes": list(self.notes()),
        }  # fmt: skip


@dataclass(frozen=True)
class Senses:
    """The senses of all terms, by the vectors of an encoder; `rows` of each split."""

    encoder: str
    rows: dict[Role, int]
    terms: list[TermSenses]

    def to_json(self) -> dict[str, Any]:
        """The object that `finetune data senses --json` prints."""
        return {"encoder": self.encoder, "rows": self.rows, "terms": [one.to_json() for one in self.terms]}

    def show(self, console: Console) -> None:
        """Prints each term: its counts, a table of its senses, and what was found."""
        for number, one in enumerate(self.terms):
            console.print(*[""] * bool(number), f"[bold]{escape(one.term)}[/bold]", sep="\n")
            for role, use in one.splits.items():
                _say(console, f"{role}: {_counted(use, one.told)}")
            if one.senses:
                console.print(_table(one))
            for note in one.notes():
                _say(console, f"note: {note}")
            for finding in one.findings():
                _say(console, finding)


def _counted(use: SplitUse, told: bool) -> str:
    found = count_of(use.occurrences, "occurrence")
    if not use.occurrences:
        return found
    rest = f"; {use.undecided:,} undecided, {use.of_none:,} of no sense told" if told else ""
    return (
        f"{found} in {count_of(use.rows, 'row')}, {use.in_prompts:,} in prompts and {use.in_answers:,} in answers{rest}"
    )


def _table(one: TermSenses) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sense")
    for role in one.splits:
        table.add_column(role, justify="right")
    table.add_column("such as", overflow="fold")
    for sense in one.senses:
        name = f"{sense.name}: {', '.join(sense.words)}" if sense.words else sense.name
        shares = sense.shares(one.senses)
        counts = [f"{number:,}{_percent(shares[role])}" for role, number in sense.occurrences.items()]
        table.add_row(escape(name), *counts, escape("\n".join(sense.examples)))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.0%})"


def _difference(one: Difference) -> str:
    train, held_out = (
        f"{number:,} of {count_of(total, 'row')}"
        for number, total in ((one.train, one.train_rows), (one.eval, one.eval_rows))
    )
    if one.kind == "unseen":
        return f"unseen: {one.sense} is in eval ({held_out}) and not in train; add rows of it, or leave it out of eval"
    chance = f"p {one.p:.2g}" + ("" if one.p < 0.05 else ", which may be chance")
    return f"{one.kind} in eval: {one.sense}, in train {train}, in eval {held_out} ({chance}); hold rows of it out"


def _some(rows: list[str]) -> str:
    more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
    return ", ".join(rows[:3]) + more


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
