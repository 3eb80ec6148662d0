"""Rows become examples: the format is found by looking at every row, and every faulty row is named at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from finetune.data.conversations import require_answers, to_messages
from finetune.data.faults import NAMED, RowFault, described, listed, refuse
from finetune.data.rows import Row
from finetune.data.shapes import (
    REFUSED,
    FormatName,
    formats_of,
    is_preference,
    kinds_of,
    pair_columns,
    text_column,
    turn_column,
)
from finetune.data.tools import tool_schemas
from finetune.errors import DataError

__all__ = ["Example", "FormatName", "detect_format", "to_examples"]


@dataclass(frozen=True)
class Example:
    """One training example, whatever its row looked like.

    `messages` are OpenAI-style (`role`, `content` and perhaps `tool_calls`, `reasoning_content`, `name`,
    `tool_call_id`), with `"train": False` on assistant turns that are only read; empty for plain text.
    `tools` are OpenAI function schemas. `prompt` is the plain-text prompt of alpaca and prompt_completion, for
    models without a chat template; its completion is the content of the last message. `text` is plain text.
    `source` and `index` are those of its row.
    """

    where: str
    format: FormatName
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    prompt: str | None = None
    text: str | None = None
    source: str = ""
    index: int = 0


@dataclass(frozen=True)
class Converted:
    """A row with its examples, of which a row of several instances gives several; or with the fault that it has."""

    row: Row
    examples: list[Example] = field(default_factory=list)
    fault: RowFault | None = None


def convert(rows: list[Row], format: str = "auto") -> tuple[list[Converted], FormatName]:
    """Every row, in order, as examples or with its fault, and the format they have.

    Raises DataError where rows do not have that format.
    """
    name = detect_format(rows) if format == "auto" else _require(rows, format)
    return [_converted(row, name) for row in _filled(rows)], name


def to_examples(rows: list[Row], format: str = "auto") -> tuple[list[Example], FormatName]:
    """The examples of all rows, in order, and the format they have.

    Raises DataError where rows do not have that format, or naming every row that cannot be trained on.
    """
    converted, name = convert(rows, format)
    faults = {one.row.where: one.fault for one in converted if one.fault}
    refuse(faults.items(), len({row.where for row in rows}))
    return [example for one in converted for example in one.examples], name


def _converted(row: Row, format: FormatName) -> Converted:
    try:
        examples = CONVERTERS[format](row, format)
    except RowFault as fault:
        return Converted(row, fault=fault)
    return Converted(row, [replace(example, source=row.source, index=row.index) for example in examples])


def detect_format(rows: list[Row]) -> FormatName:
    """The one format that the keys of all rows show; columns that are null in every row do not count.

    Raises DataError naming the first row of each kind where there are several, or where none can be trained on.
    """
    assert rows, "read_rows gives at least one row"
    first: dict[str, Row] = {}
    for row, filled in zip(rows, _filled(rows), strict=True):
        kinds = kinds_of(filled.value)
        # Empty or faulty turns fit either conversation format: other rows decide, and converting names the fault.
        first.setdefault("conversation" if set(kinds) >= {"messages", "sharegpt"} else kinds[0], row)
    undecided = first.pop("conversation", None)
    if undecided and not first.keys() & {"messages", "sharegpt"}:
        first["messages" if "messages" in undecided.value else "sharegpt"] = undecided
    if len(first) > 1:
        lines = [f"{kind}: {row.where} (keys: {_keys(row)})" for kind, row in first.items()]
        raise DataError(
            listed(f"rows of {len(first)} different formats, which first appear at", lines),
            "bring all rows to one format, such as messages; or set data.format to one whose keys all rows have",
        )
    ((kind, row),) = first.items()
    if kind in REFUSED:
        raise DataError(f"{row.where}: {kind} (keys: {_keys(row)})", REFUSED[kind])
    return kind


def _require(rows: list[Row], format: str) -> FormatName:
    """The format asked for, where every row has its keys; raises DataError naming the first row that has not."""
    for row, filled in zip(rows, _filled(rows), strict=True):
        kind = kinds_of(filled.value)[0]
        if format not in formats_of(filled.value) or is_preference(filled.value):
            hint = REFUSED.get(kind, f"set data.format={kind}, or auto")
            raise DataError(f"{row.where}: data.format={format}, but found {kind} (keys: {_keys(row)})", hint)
    return format


def _filled(rows: list[Row]) -> list[Row]:
    """The rows without columns that are null in all of them: tables of mixed origin are full of these."""
    filled = {key for row in rows for key, value in row.value.items() if value is not None}
    return [replace(row, value={key: item for key, item in row.value.items() if key in filled}) for row in rows]


def _keys(row: Row) -> str:
    keys = [key if value is not None else f"{key} (null)" for key, value in row.value.items()]
    return ", ".join([*keys[:NAMED], "…"] if len(keys) > NAMED else keys) or "none"


def _conversation(row: Row, format: FormatName) -> list[Example]:
    value = row.value
    if column := turn_column(value):
        messages = to_messages(value[column])
    else:  # TRL's conversational prompt and completion: only the completion is trained
        messages = [_read_only(message) for message in to_messages(value["prompt"])] + to_messages(value["completion"])
    system = _optional(value, "system", "system_prompt")
    if system and messages and messages[0]["role"] == "system":
        raise RowFault("two system prompts", "keep the system column or the system turn", "a column and a turn")
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    require_answers(messages)
    return [Example(row.where, format, messages, tools=tool_schemas(value.get("tools")))]


def _read_only(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "train": False} if message["role"] == "assistant" else message


def _alpaca(row: Row, format: FormatName) -> list[Example]:
    """One example for each of `instances` (self-instruct), or one for the row."""
    if "instances" not in row.value:
        return [_instruction(row.value, row.where)]
    instances = row.value["instances"]
    if not isinstance(instances, list) or not instances or not all(isinstance(one, dict) for one in instances):
        raise RowFault("no list of instances", 'instances is a list of {"input": ..., "output": ...}')
    places = [row.where] if len(instances) == 1 else [f"{row.where} instance {i + 1}" for i in range(len(instances))]
    return [_instruction(row.value | instance, place) for instance, place in zip(instances, places, strict=True)]


def _instruction(value: dict[str, Any], where: str) -> Example:
    instruction = _text(value, "instruction", empty=True)
    given = _optional(value, "input", "context")
    system = _optional(value, "system", "system_prompt")
    answer = _text(value, next((column for column in ("output", "response") if column in value), "output"))
    question = f"{instruction}\n\n{given}" if given else instruction
    history = _history(value.get("history"))
    messages = _dialogue(system, [*history, (question, answer)])
    return Example(where, "alpaca", messages, prompt=_alpaca_prompt(system, history, instruction, given))


def _history(value: Any) -> list[tuple[str, str]]:
    """Earlier turns as (question, answer)."""
    pairs = value or []
    whole = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if not whole or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise RowFault("a history that cannot be read", "history is a list of [question, answer] pairs of text")
    return [(question, answer) for question, answer in pairs]


def _alpaca_prompt(system: str, history: list[tuple[str, str]], instruction: str, given: str) -> str:
    """The prompt for models without a chat template, in the sections that Alpaca made known."""
    task = "an instruction and the input it is about" if given else "an instruction"
    parts = [system or f"Here is {task}. Write a response that does what the instruction asks."]
    for question, answer in history:
        parts += [f"### Instruction:\n{question}", f"### Response:\n{answer}"]
    parts += [f"### Instruction:\n{instruction}", *([f"### Input:\n{given}"] if given else []), "### Response:\n"]
    return "\n\n".join(parts)


def _pair(row: Row, format: FormatName) -> list[Example]:
    asked, answered = pair_columns(row.value)
    system = _optional(row.value, "system", "system_prompt")
    prompt = _text(row.value, asked, empty=True)
    messages = _dialogue(system, [(prompt, _text(row.value, answered))])
    return [Example(row.where, format, messages, prompt=f"{system}\n\n{prompt}" if system else prompt)]


def _plain_text(row: Row, format: FormatName) -> list[Example]:
    return [Example(row.where, format, [], text=_text(row.value, text_column(row.value)))]


def _dialogue(system: str, turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _text(value: dict[str, Any], column: str, *, empty: bool = False) -> str:
    """The text of a column that must hold some; raises RowFault."""
    text = value.get(column)
    if isinstance(text, str) and (empty or text.strip()):
        return text
    hint = "write what belongs there, or delete these rows"
    if isinstance(text, str):
        raise RowFault(f"no text under {column}", hint, "empty", rule="empty_turn")
    raise RowFault(f"no text under {column}", hint, described(text))


def _optional(value: dict[str, Any], *columns: str) -> str:
    """The text of the first of these columns that has some; empty where none has."""
    column = next((column for column in columns if value.get(column) not in (None, "")), None)
    return _text(value, column, empty=True) if column else ""


CONVERTERS: dict[FormatName, Callable[[Row, FormatName], list[Example]]] = {
    "messages": _conversation,
    "sharegpt": _conversation,
    "alpaca": _alpaca,
    "prompt_completion": _pair,
    "text": _plain_text,
}
