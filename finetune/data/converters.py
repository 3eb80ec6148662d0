"""From a row of each format to examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.data.conversations import require_answers, to_messages
from finetune.data.example import Example
from finetune.data.faults import RowFault, described
from finetune.data.rows import Row
from finetune.data.shapes import SIDES, FormatName, pair_columns, prompt_column, side_column, text_column, turn_column
from finetune.data.tools import tool_schemas

PAIR_HINT = "a preference is a prompt with two answers: prompt, chosen and rejected"


def examples_of(row: Row, format: FormatName, method: str | None = "sft") -> list[Example]:
    """The examples of one row. Raises RowFault."""
    if method in ("rloo", "grpo") and format in ("messages", "sharegpt"):
        return _conversation(row, format, answered=False)
    return CONVERTERS[format](row, format)


def _conversation(row: Row, format: FormatName, *, answered: bool = True) -> list[Example]:
    value = row.value
    if column := turn_column(value):
        messages = to_messages(value[column])
    else:  # TRL's conversational prompt and completion: only the completion is trained
        messages = [_read_only(message) for message in to_messages(value["prompt"])] + to_messages(value["completion"])
    messages = _with_system(value, messages)
    if answered:
        require_answers(messages)
    elif not any(message["role"] == "user" for message in messages):
        raise RowFault("no user turn", "a prompt asks something: add the question, or delete these rows")
    return [Example(row.where, format, messages, tools=tool_schemas(value.get("tools")))]


def _with_system(value: dict[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns with the system prompt that stands in a column of its own."""
    system = _optional(value, "system", "system_prompt")
    if system and messages and messages[0]["role"] == "system":
        raise RowFault("two system prompts", "keep the system column or the system turn", "a column and a turn")
    return [{"role": "system", "content": system}, *messages] if system else messages


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


def _preference(row: Row, format: FormatName) -> list[Example]:
    """Two examples, the better answer's first: the same prompt, then either answer, which alone is trained."""
    sides = [_side(row.value, side) for side in SIDES]
    prompts = [messages[:-1] for messages in sides]
    if prompts[0] != prompts[1]:
        raise RowFault("two answers to different prompts", PAIR_HINT)
    if not any(message["role"] == "user" for message in prompts[0]):
        raise RowFault("no prompt", PAIR_HINT)
    if sides[0] == sides[1]:
        raise RowFault("twice the same answer", "there is nothing to prefer: delete these rows")
    column, tools = prompt_column(row.value), tool_schemas(row.value.get("tools"))
    plain = all(isinstance(row.value.get(key), str) for key in (column, *SIDES))
    prompt = _asked(row, format)[0].prompt if plain else None
    return [
        Example(row.where, format, [*map(_read_only, messages[:-1]), messages[-1]], tools, prompt, side=side)
        for side, messages in zip(SIDES, sides, strict=True)
    ]


def _side(value: dict[str, Any], side: str) -> list[dict[str, Any]]:
    """The conversation that ends with the answer of one side."""
    answer, before = value[side_column(value, side)], _before_answers(value)
    if isinstance(answer, str):
        messages = [*before, {"role": "assistant", "content": answer}]
    elif isinstance(answer, dict):
        messages = [*before, *to_messages([answer])]
    else:
        turns = to_messages(answer)
        messages = _with_system(value, turns) if any(turn["role"] == "user" for turn in turns) else [*before, *turns]
    if not messages or messages[-1]["role"] != "assistant":
        raise RowFault(f"no {side} answer", PAIR_HINT, "the last turn is not the assistant's")
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise RowFault(f"an empty {side} answer", PAIR_HINT, rule="empty_turn")
    return messages


def _before_answers(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns before both answers, where they have columns of their own."""
    if column := turn_column(value):
        return _with_system(value, to_messages(value[column]))
    return _asked(Row(value, "", 0), "prompt")[0].messages if prompt_column(value) else []


def _asked(row: Row, format: FormatName) -> list[Example]:
    """A prompt that nothing answers."""
    value, column = row.value, prompt_column(row.value)
    if isinstance(value[column], list):
        return [Example(row.where, format, _with_system(value, to_messages(value[column])))]
    system, given = _optional(value, "system", "system_prompt"), _optional(value, "input", "context")
    words = _text(value, column)
    messages = _dialogue(system, [(f"{words}\n\n{given}" if given else words, "")])[:-1]
    return [Example(row.where, format, messages, prompt="\n\n".join(part for part in (system, words, given) if part))]


CONVERTERS: dict[FormatName, Callable[[Row, FormatName], list[Example]]] = {
    "messages": _conversation,
    "sharegpt": _conversation,
    "alpaca": _alpaca,
    "prompt_completion": _pair,
    "text": _plain_text,
    "preference": _preference,
    "prompt": _asked,
}
