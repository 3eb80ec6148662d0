"""The peak memory of a training step, by a sum that a person can check with a pocket calculator.

Four instants compete for it: the loss, the feed-forward and the attention part of one layer in the backward pass, and
the optimiser's update; with preferences the reference's forward pass, with sampled completions prefill and decoding.
The sum explains the trace and is held to it; what decides is the trace (prediction.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.preflight.inference import Inference
from finetune.preflight.instants import values_of
from finetune.preflight.letters import LEGEND, letters_of
from finetune.preflight.step import Batch
from finetune.preflight.trace import worst_batch
from finetune.spec import RunSpec

MIB = 2**20
STANDING = "at every instant"
LOSS, FEED_FORWARD, ATTENTION, UPDATE = "loss", "feed-forward, backward", "attention, backward", "optimiser step"
REFERENCE, PREFILL, DECODING = "reference forward", "prefill", "decoding"
INSTANTS = (LOSS, FEED_FORWARD, ATTENTION, UPDATE)
"""Those of every run."""


@dataclass(frozen=True)
class Line:
    """One product of the sum: at which instant and why it is alive, in letters, in numbers, and its bytes."""

    instant: str
    cause: str
    formula: str
    numbers: str
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """The sum: `allocated` bytes at the worst instant, `phase` its name, `letters` their values, `lines` all products.

    Lines of the instant "at every instant" count in each of the others.
    """

    allocated: int
    phase: str
    letters: dict[str, float]
    lines: tuple[Line, ...]

    @property
    def instants(self) -> tuple[str, ...]:
        """Names of the instants that compete."""
        extra = dict.fromkeys(line.instant for line in self.lines if line.instant not in (STANDING, *INSTANTS))
        return (*INSTANTS, *extra)

    def at(self, instant: str) -> int:
        """Bytes alive at an instant."""
        return sum(line.bytes for line in self.lines if line.instant in (STANDING, instant))


def estimate(spec: RunSpec, batch: Batch | None = None) -> Estimate:
    """The peak of a step of a described run by hand, of its worst batch where no other is given."""
    batch = batch or worst_batch(spec)
    letters = letters_of(spec, batch)
    alive = Inference(spec, batch, letters)
    terms = {
        STANDING: alive.standing(), LOSS: alive.loss(), FEED_FORWARD: alive.feed_forward(),
        ATTENTION: alive.attention(), UPDATE: alive.update(),
    }  # fmt: skip
    if spec.config.training.method == "dpo":
        terms[REFERENCE] = alive.reference()
    if spec.config.training.online:
        terms |= {PREFILL: alive.prefill(), DECODING: alive.decoding()}
    lines = tuple(_line(instant, *term, letters) for instant, found in terms.items() for term in found)
    sums = {instant: Estimate(0, instant, letters, lines).at(instant) for instant in terms if instant != STANDING}
    phase = max(sums, key=sums.__getitem__)
    return Estimate(sums[phase], phase, letters, lines)


def explain(spec: RunSpec, *, traced: int | None = None, batch: Batch | None = None) -> str:
    """The sum as plain text: the letters, the products of each instant, the worst one marked, and `traced` bytes
    beside it where given."""
    found = estimate(spec, batch)
    used = {word for line in found.lines for word in line.formula.split()}
    legend = [
        f"  {letter} {_number(found.letters[letter]):>15}  {LEGEND[letter]}" for letter in LEGEND if letter in used
    ]
    parts = ["the peak by hand: one product a line, in MiB", "\n".join(legend)]
    widths = [max(len(text) for text in column) for column in zip(*map(_texts, found.lines), strict=True)]
    for instant in (STANDING, *found.instants):
        head = instant + (" <- the peak" if instant == found.phase else "")
        rows = [_row(_texts(line), widths) for line in found.lines if line.instant == instant]
        title = "sum" if instant == STANDING else f"sum with what is there {STANDING}"
        rows.append(_row((title, "", "", _mib(found.at(instant))), widths))
        parts.append("\n".join([head, *rows]))
    beside = "" if traced is None else f", traced {_mib(traced)} MiB: {found.allocated / traced - 1:+.1%}"
    parts.append(f"by hand {_mib(found.allocated)} MiB{beside}")
    return "\n\n".join(parts)


def _line(instant: str, cause: str, formula: str, letters: dict[str, float]) -> Line:
    values = values_of(formula, letters)
    return Line(instant, cause, formula, " × ".join(map(_number, values)), round(math.prod(values)))


def _texts(line: Line) -> tuple[str, str, str, str]:
    return line.cause, line.formula, line.numbers, _mib(line.bytes)


def _row(texts: tuple[str, str, str, str], widths: list[int]) -> str:
    cause, formula, numbers, size = texts
    return f"  {cause:{widths[0]}}  {formula:{widths[1]}}  {numbers:{widths[2]}}  {size:>{max(widths[3], 10)}}"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f}"
