"""An example becomes token ids and labels: which tokens there are, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from finetune.data.formats import Example
from finetune.data.template import ChatTemplate, Span
from finetune.errors import DataError

IGNORED = -100
"""Label of a token that is read but not trained: cross entropy's `ignore_index`."""


@dataclass(frozen=True)
class Encoded:
    """One row for the model: `labels` equal `input_ids` where a token is trained and are -100 elsewhere.

    `length` is the number of tokens before any cut.
    """

    input_ids: list[int]
    labels: list[int]
    length: int

    @property
    def trained(self) -> int:
        """Number of trained tokens left after a cut."""
        return sum(label != IGNORED for label in self.labels)


class Encoder:
    """Turns examples into tokens and labels for one tokenizer.

    `loss_on`: every assistant turn, the last one (`completion`), or all tokens. Raises DataError.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        loss_on: Literal["assistant", "completion", "all"],
        max_length: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.max_length = max_length
        self._template: ChatTemplate | None = None

    @property
    def template(self) -> ChatTemplate:
        """The chat template, looked at when the first conversation needs it."""
        if self._template is None:
            self._template = ChatTemplate(self.tokenizer)
        return self._template

    def encode(self, example: Example) -> Encoded:
        """Tokens and labels of one example, cut at `max_length`."""
        try:
            text, spans, chat = self.spans(example)
        except DataError as error:
            raise DataError(f"{example.where}: {error.message}", error.hint) from None
        bos = self.tokenizer.bos_token
        # A chat template writes its own BOS, and so may a text: a second one is never added.
        add_bos = not chat and not (bos and text.startswith(bos))
        encoded = self.tokenizer(text, add_special_tokens=add_bos, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        if not chat and ids and ids[-1] == self.tokenizer.eos_token_id and ids[-2:-1] == ids[-1:]:
            ids.pop()  # this tokenizer adds EOS by itself, after ours
        labels = _labels(ids, encoded["offset_mapping"], spans)
        return Encoded(ids[: self.max_length], labels[: self.max_length], len(ids))

    def spans(self, example: Example) -> tuple[str, list[Span], bool]:
        """The text of an example, its trained spans in characters, and whether a chat template wrote it."""
        if example.text is not None:
            text = self._with_eos(example.text)
            return text, [(0, len(text))], False
        if example.prompt is not None and not self.tokenizer.chat_template:
            text = self._with_eos(example.prompt + example.messages[-1]["content"])
            start = 0 if self.loss_on == "all" else len(example.prompt)
            return text, [(start, len(text))], False
        return self._conversation(example)

    def prompt(self, example: Example) -> str:
        """What the model is given to answer the example's first assistant turn; empty for plain text."""
        if example.text is not None:
            return ""
        if example.prompt is not None and not self.tokenizer.chat_template:
            return example.prompt
        first = next(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
        return self.template.render(_plain(example.messages[:first]), example.tools, generate=True)

    def _conversation(self, example: Example) -> tuple[str, list[Span], bool]:
        messages = _plain(example.messages)
        said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        trained = [i for i in said if example.messages[i].get("train", True)]
        turns = trained[-1:] if self.loss_on == "completion" else trained
        text, spans = self.template.trained_spans(messages, example.tools, turns)
        return text, [(0, len(text))] if self.loss_on == "all" else spans, True

    def _with_eos(self, text: str) -> str:
        eos = self.tokenizer.eos_token or ""
        return text if text.endswith(eos) else text + eos


def _plain(messages: list[dict]) -> list[dict]:
    """Messages without our own `train` marks, which a template should not see."""
    return [{key: value for key, value in message.items() if key != "train"} for message in messages]


def _labels(ids: list[int], offsets: list[Span], spans: list[Span]) -> list[int]:
    """Labels: a token is trained where it overlaps a span. The first token has nothing before it to predict it from."""
    labels = [IGNORED] * len(ids)
    for start, end in spans:
        for index, (first, last) in zip(range(len(ids)), offsets, strict=False):
            if first < end and last > start:
                labels[index] = ids[index]
    if labels:
        labels[0] = IGNORED
    return labels
