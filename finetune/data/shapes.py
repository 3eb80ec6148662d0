"""Which format a row has, by its keys; which formats a method learns from; and the shapes that none does."""

from __future__ import annotations

from typing import Any, Literal, get_args

from finetune.data.json_files import CONVERSATION_COLUMNS

FormatName = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "prompt"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
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

SIDES = ("chosen", "rejected")
"""The two answers of a preference, the better one first."""

PROMPTS = ("prompt", "question", "query", "problem", "instruction")
"""Columns that hold a prompt, where nothing answers it."""

REFUSED = {
    "judged answers": "a label judges one answer, and preferences need two: write pairs of chosen and rejected for "
    "training.method=dpo; to learn the good answers, write those alone to a file, as messages or as prompt and "
    "completion",
    "OpenAssistant message trees": "write each path from the first message to an answer as one row of messages",
    "lists of questions": "write each question as a prompt of its own, with an answer for supervised fine-tuning",
    "an unknown shape": f"known shapes: {KNOWN_SHAPES}",
}
"""Shapes that no method learns from, and what to do about each."""

NAMES = {"preference": "preference data", "prompt": "questions without answers"}
"""What a format is called to people, where its own name would say too little."""

_ANSWERED = ("messages", "sharegpt", "alpaca", "prompt_completion")
_ONLINE = (*_ANSWERED, "prompt")

TAKEN: dict[str | None, tuple[FormatName, ...]] = {
    None: (*_ANSWERED, "text", "preference"),
    "sft": (*_ANSWERED, "text"),
    "dpo": ("preference",),
    "rloo": _ONLINE,
    "grpo": _ONLINE,
}
"""Formats that a method learns from. Where no method is known, rows are taken that hold something to look at."""


def refusal(kind: str, method: str | None) -> str | None:
    """What to do about rows of a kind (a format, or a key of REFUSED) that `method` does not learn from; None where it
    does."""
    if kind in TAKEN[method]:
        return None
    if kind in REFUSED:
        return REFUSED[kind]
    if kind == "preference" and method == "sft":
        return (
            "this is supervised fine-tuning, and preferences need a preference method: training.method=dpo; to learn "
            "the preferred answers, write those alone to a file, as messages or as prompt and completion"
        )
    if kind == "prompt":
        return "this method learns from answers: add one to each question; rewards need none, training.method=rloo"
    if method == "dpo":
        return "training.method=dpo learns from two answers to one prompt: rows of prompt, chosen and rejected"
    return f"training.method={method} answers prompts itself: rows of a prompt, or of questions with answers"


def formats_of(row: dict[str, Any]) -> list[FormatName]:
    """Formats whose keys the row has, the most telling first; both conversation formats where turns leave it open."""
    if is_preference(row):
        return ["preference"]
    found: list[FormatName] = []
    if column := turn_column(row):
        found += _turn_formats(row[column], column)
    elif is_dialogue_pair(row):
        found.append("messages")
    if "instruction" in row and row.keys() & {"output", "response", "instances"}:
        found.append("alpaca")
    if pair_columns(row) and not is_dialogue_pair(row):
        found.append("prompt_completion")
    if not found and prompt_column(row):
        found.append("prompt")
    if text_column(row):
        found.append("text")
    return found


def kinds_of(row: dict[str, Any]) -> list[str]:
    """As `formats_of`, but one key of REFUSED for a row that no method learns from."""
    if is_judged(row):
        return ["judged answers"]
    if "message_tree_id" in row or {"message_id", "role"} <= row.keys():
        return ["OpenAssistant message trees"]
    return [*formats_of(row)] or ["lists of questions" if "turns" in row else "an unknown shape"]


def is_preference(row: dict[str, Any]) -> bool:
    """Whether a row compares two answers."""
    return all(side_column(row, side) for side in SIDES)


def is_judged(row: dict[str, Any]) -> bool:
    """Whether a row judges one answer, by a label that is true or false."""
    return isinstance(row.get("label"), bool) and ("completion" in row or turn_column(row) is not None)


def side_column(row: dict[str, Any], side: str) -> str | None:
    """The column of one of the SIDES."""
    return next((column for column in (side, f"{side}_messages", f"{side}_response") if column in row), None)


def prompt_column(row: dict[str, Any]) -> str | None:
    """The column of a prompt."""
    return next((column for column in PROMPTS if row.get(column)), None)


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
