"""A tokenizer's chat template: renders conversations, and refuses those it would not render whole."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from finetune.data.template_limits import limits, require_bounded, require_short
from finetune.data.turns import SENTINEL, Message, Span, TemplateFault, Turns, left_out
from finetune.errors import DataError


class ChatTemplate:
    """Renders conversations, and finds in them what the model has to write.

    Raises DataError where the tokenizer has no template, or one without bounds.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the rows are conversations, but the model's tokenizer has no chat template",
                "train an instruct model, or give a Jinja file as data.chat_template",
            )
        named = tokenizer.chat_template
        for template in named.values() if isinstance(named, dict) else [named]:
            require_bounded(template)
        self.tokenizer = tokenizer
        self.special = _special_tokens(tokenizer)
        self.header = self._header()

    @property
    def writes_tool_calls(self) -> bool:
        """Whether the template knows of tool calls."""
        return "tool_calls" in str(self.tokenizer.chat_template)

    def render(self, messages: Sequence[Message], tools: list | None = None, *, generate: bool = False) -> str:
        """The conversation as the model reads it; `generate` adds the header of the next assistant turn.

        Raises TemplateFault where the template refuses the conversation, DataError where it takes too long or too much
        memory.
        """
        try:
            with limits():
                text = self.tokenizer.apply_chat_template(
                    list(messages), tools=tools, tokenize=False, add_generation_prompt=generate
                )
            require_short(text)
            return text
        except DataError:
            raise
        except Exception as error:  # anything at all: it is a program
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise TemplateFault(
                "template_refuses_row",
                str(error),
                f"the chat template refuses a conversation of {roles}: {error}",
                "change the rows, or give another template as data.chat_template",
            ) from None

    def attempt(self, messages: Sequence[Message], tools: list | None = None, *, generate: bool = False) -> str | None:
        """`render` for a part of a conversation; None where the template wants more of it."""
        try:
            return self.render(messages, tools, generate=generate)
        except TemplateFault:
            return None

    def trained_spans(
        self, messages: Sequence[Message], tools: list | None, turns: Sequence[int]
    ) -> tuple[str, list[Span]]:
        """The rendered text and, for each assistant turn in `turns`, the characters that the model has to write.

        Where the template ends the conversation without a stop token, EOS is added: without one the model would never
        learn to stop. Raises DataError where the template leaves out a turn.
        """
        text = self.render(messages, tools)
        self._require_whole(text, messages, tools)
        found = Turns(self, text, messages, tools)
        spans = [found.span(turn) for turn in turns]
        last = len(messages) - 1
        if messages[last]["role"] == "assistant" and not text.rstrip().endswith(self.special):
            text = text.rstrip() + (self.tokenizer.eos_token or "")
            if last in turns:
                spans[-1] = (spans[-1][0], len(text))
        return text, spans

    def special_after(self, text: str, end: int) -> int:
        """Where the special token ends that follows `end`, perhaps after white space; `end` where none does."""
        at = len(text) - len(text[end:].lstrip())
        return next((at + len(token) for token in self.special if text.startswith(token, at)), end)

    def _require_whole(self, text: str, messages: Sequence[Message], tools: list | None) -> None:
        """Raises DataError where a turn is not in the text. Beside tool calls a template may leave out words."""
        for turn, message in enumerate(messages):
            names = [call["function"]["name"] for call in message.get("tool_calls", [])]
            if not all(name in text for name in names):
                raise left_out(messages, turn, "the tool calls of ")
            # Words that are not there as they were may still be there escaped, or without their reasoning.
            if not names and message["content"].strip() not in text:
                other = [*messages[:turn], message | {"content": SENTINEL}, *messages[turn + 1 :]]
                if self.render(other, tools) == text:
                    raise left_out(messages, turn)

    def _header(self) -> str:
        """What the template writes before an answer to a question."""
        asked = [{"role": "user", "content": SENTINEL}]
        plain, prompt = self.attempt(asked), self.attempt(asked, generate=True)
        return prompt[len(plain) :] if plain and prompt and prompt.startswith(plain) else ""


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts of the special tokens, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted({token for token in added | set(tokenizer.all_special_tokens) if token}, key=len, reverse=True))
