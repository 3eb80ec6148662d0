"""The texts of a row as rules see them: what is asked and what is answered, in any format that the loader knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.data.converters import examples_of
from finetune.data.example import Example
from finetune.data.faults import RowFault
from finetune.data.rows import Row
from finetune.data.shapes import NAMES, FormatName, kinds_of, refusal


@dataclass(frozen=True, slots=True)
class Texts:
    """One row. `asked` holds every text of the asking side apart (instruction, input, user and tool turns), `answers`
    every answer that is trained on; plain text counts as an answer. `question` and `answer` are those, joined by line
    breaks; `system` is the system prompt, which many rows share. `examples` is all of it, with tools and their calls.
    """

    value: dict[str, Any]
    format: FormatName
    system: str
    asked: tuple[str, ...]
    answers: tuple[str, ...]
    question: str
    answer: str
    examples: tuple[Example, ...]


def texts_of(value: dict[str, Any], method: str | None = None) -> Texts:
    """The texts of one row. Raises RowFault where the loader would refuse it for `method`, or for any."""
    kind, read = _kind(value, method)
    return sides_of(value, kind, tuple(examples_of(Row(read, "", 0), kind, method)))


def sides_of(value: dict[str, Any], kind: FormatName, examples: tuple[Example, ...]) -> Texts:
    """The texts of a row that has been converted to examples."""
    sides: dict[str, list[str]] = {"system": [], "asked": [], "answer": []}
    for example in examples:
        for side, text in _sides(example, value):
            sides[side].append(text)
    system, asked, answers = ("\n".join(texts) for texts in sides.values())
    return Texts(value, kind, system, tuple(sides["asked"]), tuple(sides["answer"]), asked, answers, examples)


def _kind(value: dict[str, Any], method: str | None) -> tuple[FormatName, dict[str, Any]]:
    """The format of one row, and the row as that reads it: without columns that are null, unless nothing is left."""
    filled = {key: item for key, item in value.items() if item is not None}
    for read in (filled, value):
        kind = kinds_of(read)[0]
        if not refusal(kind, method):
            return kind, read
    raise RowFault(NAMES.get(kind, kind), refusal(kind, method))


def _sides(example: Example, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if example.text is not None:
        yield "answer", example.text
    for message in example.messages:
        role, text = message["role"], message["content"]
        if not text:
            continue  # a turn of tool calls alone, or a tool that gives nothing back
        if example.side == "rejected" and message is not example.messages[-1]:
            continue  # seen with the other answer
        if role == "assistant" and message.get("train", True):
            yield "answer", text
        elif role == "system":
            yield "system", text
        elif example.format == "alpaca" and text.startswith(f"{value['instruction']}\n\n"):
            # The loader joins instruction and input; a placeholder or a lone address stands in one of them.
            yield "asked", value["instruction"]
            yield "asked", text[len(value["instruction"]) + 2 :]
        else:
            yield "asked", text
