"""One example to learn from, whatever its row looked like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.data.shapes import FormatName


@dataclass(frozen=True)
class Example:
    """One training example, whatever its row looked like.

    `messages` are OpenAI-style (`role`, `content` and perhaps `tool_calls`, `reasoning_content`, `name`,
    `tool_call_id`), with `"train": False` on assistant turns that are only read; empty for plain text.
    `tools` are OpenAI function schemas. `prompt` is the plain-text prompt of alpaca and prompt_completion, for
    models without a chat template; its completion is the content of the last message. `text` is plain text.
    `source` and `index` are those of its row; `side` says which answer of a preference this is.
    """

    where: str
    format: FormatName
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    prompt: str | None = None
    text: str | None = None
    source: str = ""
    index: int = 0
    side: str | None = None
