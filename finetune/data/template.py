"""Which characters of a rendered conversation are trained, for any chat template.

Templates differ in headers, spaces, tool calls and reasoning blocks, and few carry generation markers. So the
span of a turn is found by comparison: the conversation is rendered as it is, and once more with that turn's
words replaced by a sentinel. What both renderings share before and after belongs to the template; what lies
between is what the assistant says. The stop token that follows belongs to it too, or the model would never
learn to stop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from finetune.errors import DataError

SENTINEL = "\ue0f1\ue0f2"
"""Private-use characters: they occur in no text and survive a template's trimming."""

Span = tuple[int, int]
Message = dict[str, Any]


class ChatTemplate:
    """A tokenizer's chat template, rendering conversations and finding the trained spans in them.

    Raises DataError where the tokenizer has no template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the rows are conversations, but the model's tokenizer has no chat template",
                "train an instruct model, or give a Jinja file as data.chat_template",
            )
        self.tokenizer = tokenizer
        self.special = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        self.header = self._generation_prompt()

    def render(self, messages: Sequence[Message], tools: list | None = None, *, generate: bool = False) -> str:
        """The conversation as the model reads it; `generate` adds the header of the next assistant turn.

        Raises DataError where the template refuses the conversation.
        """
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=generate
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise DataError(
                f"the chat template refuses a conversation of {roles}: {error}",
                "change the rows, or give another template as data.chat_template",
            ) from None

    def trained_spans(
        self, messages: Sequence[Message], tools: list | None, turns: Iterable[int]
    ) -> tuple[str, list[Span]]:
        """The rendered text and, for each assistant turn in `turns`, the span from its first word to its stop token.

        Raises DataError where the template drops one of the turns.
        """
        text = self.render(messages, tools)
        spans = []
        for turn in turns:
            start, end = self._said(text, messages, tools, turn)
            stop = self._stop_token(text, end)
            if stop is None and turn == len(messages) - 1:
                # The template ends in no stop token: without one the model would never learn to stop.
                text += self.tokenizer.eos_token
                stop = len(text)
            spans.append((start, stop or end))
        return text, spans

    def _said(self, text: str, messages: Sequence[Message], tools: list | None, turn: int) -> Span:
        other = list(messages)
        other[turn] = {"role": "assistant", "content": SENTINEL}
        before, found, after = self.render(other, tools).partition(SENTINEL)
        if not found:
            raise DataError(
                f"the chat template cannot be masked: it drops or rewrites assistant turn {turn + 1}",
                "give a template that keeps every turn as data.chat_template, or set data.loss_on=all",
            )
        start = len(os.path.commonprefix([text, before]))
        shared = len(os.path.commonprefix([text[::-1], after[::-1]]))
        end = max(start, len(text) - shared)
        return self._after_header(text, start, messages[turn - 1] if turn else {}), end

    def _after_header(self, text: str, start: int, previous: Message) -> int:
        """Moves the start back to the end of the turn's header, so that what the template puts between them (an
        empty reasoning block) is trained: the model has to write it too."""
        at = text.rfind(self.header, 0, start) if self.header else -1
        gap = text[at + len(self.header) : start]
        said_before = previous.get("content")
        if at < 0 or not gap or self._stop_token(gap, 0) or (said_before and said_before in gap):
            return start
        return at + len(self.header)

    def _stop_token(self, text: str, end: int) -> int | None:
        """Where the special token ends that follows `end`, perhaps after white space; None where none follows."""
        at = len(text) - len(text[end:].lstrip())
        return next((at + len(token) for token in self.special if text.startswith(token, at)), None)

    def _generation_prompt(self) -> str:
        asked = [{"role": "user", "content": SENTINEL}]
        try:
            plain, prompt = self.render(asked), self.render(asked, generate=True)
        except DataError:
            return ""
        return prompt[len(plain) :] if prompt.startswith(plain) else ""


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in added | set(tokenizer.all_special_tokens) if token}
