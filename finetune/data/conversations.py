"""Turns of a conversation as OpenAI-style messages, whether they came with role and content or from and value."""

from __future__ import annotations

import difflib
from typing import Any

from finetune.data.faults import RowFault, described
from finetune.data.tools import tool_calls

CALL = "function_call"
"""ShareGPT's role of a turn that is nothing but tool calls."""

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "bard": "assistant",
    "model": "assistant", CALL: CALL,
    "tool": "tool", "function": "tool", "function_response": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip
"""Names of roles that data sets use, and the one that each stands for."""

KEPT = ("name", "tool_call_id", "reasoning_content")
"""Keys of a turn that templates read beside role, content and tool_calls; other keys are left out."""

TURN_HINT = 'a turn is {"role": "user", "content": "..."} or {"from": "human", "value": "..."}'
ROLE_HINT = f"known roles: {', '.join(ROLES)}"
ANSWER_HINT = "supervised fine-tuning learns from assistant turns: add the answer, or delete the row"
WEIGHT_HINT = "a turn is trained (1) or not (0); weights in between are not supported"
TEXT_HINT = "content is text, or a list of parts of the types text, reasoning and tool_call"


def to_messages(turns: Any) -> list[dict[str, Any]]:
    """Messages of `role`, `content` (str) and, where a turn has them, `tool_calls` and `reasoning_content`.

    Text parts of one turn are joined without a separator. An assistant turn of weight 0 is marked
    `"train": False`. A turn of tool calls alone joins an assistant turn right before it. Raises RowFault.
    """
    if not isinstance(turns, list):
        raise RowFault("turns that are not a list", TURN_HINT, described(turns))
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns, start=1):
        try:
            role = _role(turn)
            message = _message(turn, role)
        except RowFault as fault:
            detail = f"turn {number}: {fault.detail}" if fault.detail else f"turn {number}"
            raise RowFault(fault.what, fault.hint, detail) from None
        if role == CALL and messages and _same_speaker(messages[-1], message):
            messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
        else:
            messages.append(message)
    return messages


def require_answers(messages: list[dict[str, Any]]) -> None:
    """Raises RowFault where there is no assistant turn to train on, or one that says nothing."""
    if not messages:
        raise RowFault("no turns", ANSWER_HINT)
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise RowFault("no assistant turn", ANSWER_HINT, rule="no_trained_token")
    if not any(message.get("train", True) for message in answers):
        raise RowFault("no assistant turn to train on", ANSWER_HINT, "every one has weight 0", rule="no_trained_token")
    for number, message in enumerate(messages, start=1):
        trained = message["role"] == "assistant" and message.get("train", True)
        if trained and not message["content"].strip() and not message.get("tool_calls"):
            raise RowFault("an empty assistant turn", ANSWER_HINT, f"turn {number}", rule="empty_turn")


def _message(turn: dict[str, Any], role: str) -> dict[str, Any]:
    content = turn.get("content", turn.get("value"))
    if role == CALL:
        message = {"role": "assistant", "content": "", "tool_calls": tool_calls(content)}
    else:
        message = {"role": role, **_content(content, turn.get("tool_calls") or turn.get("function_call"))}
    message |= {key: turn[key] for key in KEPT if isinstance(turn.get(key), str)}
    if not _trained(turn) and message["role"] == "assistant":
        message["train"] = False
    return message


def _content(content: Any, calls: Any) -> dict[str, Any]:
    """Text, reasoning and tool calls of a turn; beside tool calls, text may be null."""
    found: dict[str, list] = {"text": [], "reasoning": [], "tool_call": tool_calls(calls) if calls else []}
    if content is None and not calls:
        raise RowFault("a turn without content", TURN_HINT)
    if not isinstance(content, str | list | None):
        raise RowFault("content that is not text", TEXT_HINT, described(content))
    for part in content if isinstance(content, list) else [content or ""]:
        kind, value = _part(part)
        found[kind].extend(tool_calls(value) if kind == "tool_call" else [value])
    message: dict[str, Any] = {"content": "".join(found["text"])}
    if found["reasoning"]:
        message["reasoning_content"] = "".join(found["reasoning"])
    if found["tool_call"]:
        message["tool_calls"] = found["tool_call"]
    return message


def _part(part: Any) -> tuple[str, Any]:
    """Kind and value of one part of a turn's content."""
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise RowFault("content that is not text", TEXT_HINT, f"a part that is {described(part)}")
    kind = part.get("type")
    if kind not in ("text", "reasoning", "tool_call"):
        raise RowFault("content that is not text", TEXT_HINT, f"a part of type {kind!r}")
    value = part.get("value", part.get(kind))
    if kind != "tool_call" and not isinstance(value, str):
        raise RowFault("content that is not text", TEXT_HINT, f"a {kind} part that is {described(value)}")
    return kind, value


def _same_speaker(before: dict[str, Any], message: dict[str, Any]) -> bool:
    return before["role"] == "assistant" and before.get("train") == message.get("train")


def _role(turn: Any) -> str:
    if not isinstance(turn, dict):
        raise RowFault("a turn that is not an object", TURN_HINT, described(turn))
    value = turn.get("role", turn.get("from"))
    if value is None:
        raise RowFault("a turn without a role", TURN_HINT)
    name = str(value).strip().lower()
    if name in ROLES:
        return ROLES[name]
    near = difflib.get_close_matches(name, ROLES, n=1)
    raise RowFault("an unknown role", ROLE_HINT, f"{value!r}" + (f", did you mean {near[0]}?" if near else ""))


def _trained(turn: dict[str, Any]) -> bool:
    weights = [turn[key] for key in ("loss_weight", "weight", "train") if turn.get(key) is not None]
    for weight in weights:
        if weight not in (0, 1):
            raise RowFault("a loss weight other than 0 or 1", WEIGHT_HINT, f"{weight!r}")
    return all(weights)
