"""Where an assistant turn stands in a rendered conversation, for any chat template.

A turn is what the model has to write: it begins where the generation prompt ends, and it ends with the stop token,
where the conversation would end if this turn were its last. Both places are found by rendering the conversation up to
them, so no template needs generation markers. Some templates write earlier turns in another form than the last:
without their reasoning, or with another stop token. There the conversation is rendered with the turn saying something
else, and what differs is what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError

if TYPE_CHECKING:
    from finetune.data.template import ChatTemplate

SENTINEL = "\ue0f1\ue0f2"
"""Private-use characters: they begin and end like no text, and survive a template's trimming."""

Span = tuple[int, int]
Message = dict[str, Any]


class Turns:
    """Finds the assistant turns of one conversation in `text`, its rendering."""

    def __init__(self, template: ChatTemplate, text: str, messages: Sequence[Message], tools: list | None) -> None:
        self.template = template
        self.text = text
        self.messages = list(messages)
        self.tools = tools

    def span(self, turn: int) -> Span:
        """The characters of an assistant turn, from the first after the header to the end of the stop token.

        Raises DataError where the template does not write the turn.
        """
        prompt, told = self._part(turn, generate=True), self._part(turn + 1)
        start, end = self._start(prompt), self._end(told)
        if start is None or end is None:
            first, last = self._difference(turn)
            start = self._after_header(turn, prompt, first) if start is None else start
            end = self._after_stop(turn, told, last) if end is None else end
        if start >= end:
            raise left_out(self.messages, turn)
        return start, end

    def _start(self, prompt: str | None) -> int | None:
        """Where the prompt ends; None where the text does not go on from the same context.

        The header may differ: a prompt can open a reasoning block that a turn without reasoning lacks.
        """
        if prompt is None or not self.text.startswith(prompt.removesuffix(self.template.header)):
            return None
        same = agreement(self.text, prompt)
        tag = prompt.rfind("<", 0, same)
        # Where the prompt opens <think> and the text <table>, "<t" is not the prompt's.
        return tag if same < len(prompt) and tag > prompt.rfind(">", 0, same) else same

    def _end(self, told: str | None) -> int | None:
        """Where the conversation ends that was `told` up to the turn; None where the text does not begin with it."""
        if told is None or not self.text.startswith(told.rstrip()):
            return None
        end = len(told.rstrip())
        return end if self.text.endswith(self.template.special, 0, end) else self.template.special_after(self.text, end)

    def _difference(self, turn: int) -> Span:
        """What changes when the turn says something else: from its first word to the end of its last."""
        message = _something_else(self.messages[turn])
        other = self.template.render([*self.messages[:turn], message, *self.messages[turn + 1 :]], self.tools)
        return agreement(self.text, other), len(self.text) - agreement(self.text[::-1], other[::-1])

    def _after_header(self, turn: int, prompt: str | None, first: int) -> int:
        """Where the header ends before the turn's `first` word, which the template may begin with words of its own.

        The header follows the turn before: both are looked for together, in the form that the prompt gives them.
        """
        before = self._part(turn - 1) if prompt else None
        if before and prompt.startswith(before):
            at = self.text.rfind(prompt[len(before) :], 0, first)
            return first if at < 0 else at + len(prompt) - len(before)
        return first

    def _after_stop(self, turn: int, told: str | None, last: int) -> int:
        """Where the stop token ends after the turn's `last` word."""
        told = (told or "").rstrip()
        if self._boundary(turn) < last:
            # A tool's answer stands inside the turn, before its last word: the model stopped where that began.
            last = agreement(self.text, told)
        elif self.messages[turn].get("tool_calls"):
            # Brackets and tags, special tokens among them, close the call before the turn stops.
            stop = next((token for token in self.template.special if told.endswith(token)), None)
            if stop and stop in self.text[last:]:
                return self.text.index(stop, last) + len(stop)
        return self.template.special_after(self.text, last)

    def _boundary(self, turn: int) -> int:
        """How far the text stays as it is when all later turns say something else."""
        later = [_something_else(message) for message in self.messages[turn + 1 :]]
        other = self.template.attempt([*self.messages[: turn + 1], *later], self.tools)
        return len(self.text) if other is None else agreement(self.text, other)

    def _part(self, count: int, *, generate: bool = False) -> str | None:
        """The first `count` messages rendered; None where the template wants more of them."""
        if count == len(self.messages) and not generate:
            return self.text
        return self.template.attempt(self.messages[:count], self.tools, generate=generate)


def agreement(one: str, other: str) -> int:
    """Number of characters with which both begin."""
    if one.startswith(other):
        return len(other)
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), len(one))


class TemplateFault(DataError):
    """The chat template does not write a conversation as it is.

    `rule` is that of the mask contract; `detail` says what is wrong with this conversation alone.
    """

    def __init__(self, rule: str, detail: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.rule = rule
        self.detail = detail


def left_out(messages: Sequence[Message], turn: int, part: str = "") -> TemplateFault:
    """The error of a template that does not write a turn, or a part of it."""
    detail = f"{part}turn {turn + 1} ({messages[turn]['role']})"
    return TemplateFault(
        "template_drops_turn",
        detail,
        f"the chat template cannot be masked: it leaves out {detail}",
        "give a template that writes every turn as data.chat_template, or change the rows",
    )


def _something_else(message: Message) -> Message:
    """The message with other words and other arguments, but calling the same tools, which later turns may name."""
    other = message | {key: SENTINEL for key in ("content", "reasoning_content") if message.get(key)}
    if "tool_calls" in message:
        other["tool_calls"] = [
            call | {"function": call["function"] | {"arguments": {SENTINEL: SENTINEL}}}
            for call in message["tool_calls"]
        ]
    return other
