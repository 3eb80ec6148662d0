"""Tools, calls and results as text, for chat templates that write none of them.

Many instruct models have a template of plain turns. A call then becomes a line of JSON between tags in the assistant
turn, its result a user turn, and the schemas part of the system turn: the form that Hermes made known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

TASK = "You can call these tools. Answer with <tool_call>{name, arguments}</tool_call> as JSON to call one."


def uses_tools(messages: Sequence[Message], tools: list | None) -> bool:
    """Whether a conversation has tools, calls or results."""
    return bool(tools) or any("tool_calls" in message or message["role"] == "tool" for message in messages)


def tools_as_text(messages: Sequence[Message], tools: list | None) -> list[Message]:
    """The conversation in turns of text alone; tools are told in its system turn."""
    texts = [_as_text(message) for message in messages]
    if not tools:
        return texts
    schemas = "\n".join([TASK, *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)])
    if texts[0]["role"] == "system":
        return [texts[0] | {"content": f"{texts[0]['content']}\n\n{schemas}"}, *texts[1:]]
    return [{"role": "system", "content": schemas}, *texts]


def _as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if "tool_calls" not in message:
        return message
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
    parts = [message["content"], *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return kept | {"content": "\n".join(part for part in parts if part)}
