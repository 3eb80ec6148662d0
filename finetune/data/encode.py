"""An example becomes token ids and labels: which tokens there are, and which of them count."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Literal

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from finetune.data.formats import Example
from finetune.data.template import ChatTemplate
from finetune.data.template_limits import limits
from finetune.data.tool_text import tools_as_text, uses_tools
from finetune.data.turns import Message, Span
from finetune.errors import DataError
from finetune.spec.loss import IGNORED

BATCH = 512
"""Texts that the tokenizer gets at a time."""


@dataclass(frozen=True)
class Encoded:
    """One row for the model: `labels` equal `input_ids` where a token is trained and are -100 elsewhere.

    `length` is the number of tokens before any cut, `lost` that of trained tokens which the cut took; `unwritten` that
    of assistant turns whose words or reasoning the chat template leaves out or changes.
    """

    input_ids: list[int]
    labels: list[int]
    length: int
    unwritten: int = 0
    lost: int = 0

    @property
    def trained(self) -> int:
        """Number of trained tokens left after a cut."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class _Written:
    """An example as text, the characters that are trained, and whether the tokenizer is to add a BOS."""

    text: str
    spans: list[Span]
    add_bos: bool


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
        return next(self.encode_all([example]))

    def encode_all(self, examples: Iterable[Example]) -> Iterator[Encoded]:
        """Tokens and labels of each example, in order. While the tokenizer works on one batch, on all cores and without
        Python's lock, the next is written."""
        waiting = iter(examples)
        with ThreadPoolExecutor(1) as tokenizing:
            before = None
            while batch := list(islice(waiting, BATCH)):
                with limits():
                    written = [self._written(example) for example in batch]
                after = batch, written, tokenizing.submit(self._tokens, written)
                if before:
                    yield from self._finished(*before)
                before = after
            if before:
                yield from self._finished(*before)

    def _written(self, example: Example) -> _Written:
        chat = self.is_chat(example)
        try:
            text, spans = self._conversation(example) if chat else self._plain(example)
        except DataError as error:
            error.message = f"{example.where}: {error.message}"
            raise
        bos = self.tokenizer.bos_token
        # A chat template writes its own BOS, and so may a text: a second one is never added.
        return _Written(text, spans, add_bos=not chat and not (bos and text.startswith(bos)))

    def _tokens(self, written: list[_Written]) -> list[Encoding]:
        """What the tokenizer makes of each text."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        found: dict[bool, Iterator[Encoding]] = {}
        for add_bos in (False, True):
            texts = [one.text for one in written if one.add_bos == add_bos]
            found[add_bos] = iter(backend.encode_batch(texts, add_special_tokens=add_bos))
        return [next(found[one.add_bos]) for one in written]

    def _finished(
        self, batch: list[Example], written: list[_Written], tokens: Future[list[Encoding]]
    ) -> Iterator[Encoded]:
        for example, one, encoding in zip(batch, written, tokens.result(), strict=True):
            ids = encoding.ids
            while not self.is_chat(example) and ids[-2:] == [self.tokenizer.eos_token_id] * 2:
                ids.pop()  # a text may end in EOS, and a tokenizer may add one after ours
            # Places of characters are asked for here, one row at a time: those of a whole batch are garbage by the
            # hundred thousand, and the search for it would take longer than this.
            labels = _labels(ids, encoding.offsets[: len(ids)], one.spans)
            lost = sum(label != IGNORED for label in labels[self.max_length :])
            cut = ids[: self.max_length], labels[: self.max_length]
            yield Encoded(*cut, len(ids), _unwritten(example, one.text), lost)

    def is_chat(self, example: Example) -> bool:
        """Whether the chat template writes the example; without one, a prompt and its completion are plain text."""
        return example.text is None and (example.prompt is None or bool(self.tokenizer.chat_template))

    def tells_tools(self, example: Example) -> bool:
        """Whether the example's tools become text, because the chat template writes none."""
        uses = self.is_chat(example) and uses_tools(example.messages, example.tools)
        return uses and not self.template.writes_tool_calls

    def prompt(self, example: Example, turn: int | None = None) -> str:
        """What the model is given to answer with the assistant turn of that number, the first where None; empty for
        plain text."""
        if example.text is not None:
            return ""
        if not self.is_chat(example):
            return example.prompt
        messages, tools = self._messages(example)
        if turn is None:
            turn = next(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
        before = len(messages) - len(example.messages)  # tools as text may have made a system prompt of their own
        asked = [_unmarked(message) for message in messages[: turn + before]]
        return self.template.render(asked, tools, generate=True)

    def answered_turn(self, example: Example) -> int:
        """The number of the last assistant turn; that of the turn behind the last where a user's is the last."""
        last = len(example.messages) - 1
        return last if example.messages[last]["role"] == "assistant" else last + 1

    def encode_prompt(self, example: Example, turn: int) -> tuple[str, list[int]]:
        """The prompt before a turn as text and as tokens."""
        text = self.prompt(example, turn)
        bos = self.tokenizer.bos_token
        add_bos = not self.is_chat(example) and not (bos and text.startswith(bos))
        (encoding,) = self._tokens([_Written(text, [], add_bos)])
        return text, encoding.ids

    def _plain(self, example: Example) -> tuple[str, list[Span]]:
        """A text, or a prompt and its completion, and the characters that are trained."""
        prompt = "" if example.text is not None else example.prompt
        text = example.text if example.text is not None else prompt + example.messages[-1]["content"]
        text += self.tokenizer.eos_token or ""
        return text, [(0 if self.loss_on == "all" else len(prompt), len(text))]

    def _conversation(self, example: Example) -> tuple[str, list[Span]]:
        """A rendered conversation and the characters that are trained."""
        messages, tools = self._messages(example)
        trained = [i for i, message in enumerate(messages) if message["role"] == "assistant" and _is_trained(message)]
        turns = {"assistant": trained, "completion": trained[-1:], "all": []}[self.loss_on]
        text, spans = self.template.trained_spans([_unmarked(message) for message in messages], tools, turns)
        return text, [(0, len(text))] if self.loss_on == "all" else spans

    def _messages(self, example: Example) -> tuple[list[Message], list | None]:
        if self.tells_tools(example):
            return tools_as_text(example.messages, example.tools), None
        return example.messages, example.tools


def _is_trained(message: Message) -> bool:
    return message.get("train", True)


def _unmarked(message: Message) -> Message:
    """The message without our own `train` mark, which a template should not see."""
    return {key: value for key, value in message.items() if key != "train"}


def _unwritten(example: Example, text: str) -> int:
    said = [message for message in example.messages if message["role"] == "assistant"]
    return sum(
        any(message.get(key, "").strip() not in text for key in ("content", "reasoning_content")) for message in said
    )


def _labels(ids: list[int], offsets: list[Span], spans: Sequence[Span]) -> list[int]:
    """Labels: a token is trained where one of its characters is. The first has nothing before it to predict it from."""
    labels = [IGNORED] * len(ids)
    last = len(ids)
    while last and offsets[last - 1] == (0, 0):
        last -= 1  # added behind the text: without a place in it, and out of its order
    for start, end in spans:
        first = max(1, bisect_right(offsets, start, hi=last, key=itemgetter(1)))
        behind = bisect_left(offsets, end, hi=last, key=itemgetter(0))
        for index in range(first, behind):
            if offsets[index][0] < offsets[index][1]:  # a token of no character is not part of an answer
                labels[index] = ids[index]
    return labels
