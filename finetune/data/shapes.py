"""Which format a row has, by its keys; and the shapes that are known but are no data for supervised fine-tuning."""

from __future__ import annotations

from typing import Any, Literal, get_args

from finetune.data.json_files import CONVERSATION_COLUMNS

FormatName = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
"""Columns of a prompt and its completion; the first pair that a row has is taken. Input and output come last."""

KNOWN_SHAPES = (
    "messages (turns of role and content), conversations (turns of from and value), instruction and output, "
    + ", ".join(f"{prompt} and {completion}" for prompt, completion in PAIRS)
    + ", text"
)

REFUSED = {
    "preference data": "this is supervised fine-tuning, and preferences need a preference method such as DPO; "
    "to learn the preferred answers, write those alone to a file, as messages or as prompt and completion",
    "OpenAssistant message trees": "write each path from the first message to an answer as one row of messages",
    "questions without answers": "supervised fine-tuning learns from answers: add one to each question",
    "an unknown shape": f"known shapes: {KNOWN_SHAPES}",
}
"""Shapes that cannot be trained on, and what to do about each."""


def formats_of(row: dict[str, Any]) -> list[FormatName]:
    """Formats whose keys the row has, the most telling first; both conversation formats where turns leave it open."""
    found: list[FormatName] = []
    if column := turn_column(row):
        found += _turn_formats(row[column], column)
    elif is_dialogue_pair(row):
        found.append("messages")
    if "instruction" in row and row.keys() & {"output", "response", "instances"}:
        found.append("alpaca")
    if pair_columns(row) and not is_dialogue_pair(row):
        found.append("prompt_completion")
    if text_column(row):
        found.append("text")
    return found


def kinds_of(row: dict[str, Any]) -> list[str]:
    """As `formats_of`, but one key of REFUSED for a row that is not for supervised fine-tuning."""
    if is_preference(row):
        return ["preference data"]
    if "message_tree_id" in row or {"message_id", "role"} <= row.keys():
        return ["OpenAssistant message trees"]
    return [*formats_of(row)] or ["questions without answers" if "turns" in row else "an unknown shape"]


def is_preference(row: dict[str, Any]) -> bool:
    """Whether a row compares answers (chosen, rejected) or judges one (a true or false label)."""
    compared = all(any(key.startswith(word) for key in row) for word in ("chosen", "rejected"))
    judged = isinstance(row.get("label"), bool) and ("completion" in row or turn_column(row) is not None)
    return compared or judged


def turn_column(row: dict[str, Any]) -> str | None:
    """The column that holds turns."""
    return next((column for column in CONVERSATION_COLUMNS if column in row), None)


def is_dialogue_pair(row: dict[str, Any]) -> bool:
    """Whether prompt and completion are lists of messages (TRL's conversational form)."""
    return isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)


def pair_columns(row: dict[str, Any]) -> tuple[str, str] | None:
    """The columns of prompt and completion; beside an instruction, input and output are Alpaca's."""
    pairs = PAIRS[:-1] if "instruction" in row else PAIRS
    return next((pair for pair in pairs if row.keys() >= set(pair)), None)


def text_column(row: dict[str, Any]) -> str | None:
    """The column of plain text."""
    return next((column for column in ("text", "content") if column in row), None)


def _turn_formats(turns: Any, column: str) -> list[FormatName]:
    keys = {key for turn in turns if isinstance(turn, dict) for key in turn} if isinstance(turns, list) else set()
    if "role" in keys:
        return ["messages"]
    if "from" in keys:
        return ["sharegpt"]
    return ["messages", "sharegpt"] if column == "messages" else ["sharegpt", "messages"]
