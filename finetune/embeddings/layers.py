"""Vectors of words and texts at any layer of an encoder or a causal model.

A causal model's state at a word has seen the words before it alone: what follows, often what tells the sense, is in the
states of later tokens. Pool those too (`mean`, `context`) where the sense is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.embeddings.loading import load_encoder, load_language_model
from finetune.embeddings.occurrences import Occurrence
from finetune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetune.spec.source import ModelSource

BATCH = 32
"""Occurrences in one forward pass; they are sorted by length, so that little of it is padding."""

LONGEST = 254
"""Tokens around a word that are read; two more are special ones. MiniLM was trained on 256."""


@dataclass(frozen=True)
class TokenStates:
    """The T tokens of one text: `ids` (T,); `own` (T,) marks those of the word, `special` (T,) those of no text;
    `static` (T, D), their rows of the embedding table; `layers`, from the embeddings to the last layer, each (T, D)."""

    ids: np.ndarray
    own: np.ndarray
    special: np.ndarray
    static: np.ndarray
    layers: Sequence[np.ndarray]

    def target(self, layer: int = -1) -> np.ndarray:
        """Mean state of the word's tokens after a layer, (D,)."""
        return self.layers[layer][self.own].mean(0)

    def mean(self, layer: int = -1) -> np.ndarray:
        """Mean state of all tokens, special ones too: the sentence vector of a mean-pooled encoder, (D,)."""
        return self.layers[layer].mean(0)

    def context(self, weight: Callable[[np.ndarray], np.ndarray], layer: int = -1, *, own: bool = False) -> np.ndarray:
        """Mean state after `layer` of the tokens around the word, weighed by their ids, (D,); zeros where there are
        none. `own`: the word's tokens are weighed with them."""
        left_out = self.special if own else self.own | self.special
        weights = np.where(left_out, 0.0, weight(self.ids))
        return weights @ self.layers[layer] / max(float(weights.sum()), 1e-12)


Pool = Callable[[TokenStates], np.ndarray]
"""What is made of one text's tokens: a vector."""


class LayerEncoder:
    """The states of a model's tokens, pooled. Equal names give equal vectors."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self._model, self._tokenizer = model, tokenizer
        tokenizer.padding_side = "right"

    def encode(self, occurrences: Sequence[Occurrence], pool: Pool) -> np.ndarray:
        """`pool` of each, (n, whatever it gives) float32. Raises DataError where a word has no token."""
        found: list[np.ndarray | None] = [None] * len(occurrences)
        for index, tokens in self._tokens(occurrences):
            found[index] = pool(tokens)
        return np.stack(found).astype(np.float32) if found else np.empty((0, 0), np.float32)

    def static(self, occurrences: Sequence[Occurrence]) -> np.ndarray:
        """Vectors of the words by themselves: the mean of their rows in the embedding table, (n, D)."""
        return self.encode(occurrences, lambda tokens: tokens.static[tokens.own].mean(0))

    def contextual(self, occurrences: Sequence[Occurrence], layer: int = -1) -> np.ndarray:
        """Vectors of the words where they stand: their tokens' mean state after `layer` (0: embeddings), (n, D)."""
        return self.encode(occurrences, lambda tokens: tokens.target(layer))

    def sentences(self, texts: Sequence[str], layer: int = -1) -> np.ndarray:
        """Vectors of texts: the mean state of all tokens after `layer`, (n, D)."""
        return self.encode([Occurrence(text, 0, len(text)) for text in texts], lambda tokens: tokens.mean(layer))

    def token_ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Tokens of texts, without special ones."""
        return (
            iter(self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])
            if texts
            else iter(())
        )

    def _tokens(self, occurrences: Sequence[Occurrence]) -> Iterator[tuple[int, TokenStates]]:
        order = sorted(range(len(occurrences)), key=lambda index: len(occurrences[index].text))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            yield from zip(batch, self._batch([self._cropped(occurrences[index]) for index in batch]), strict=True)

    def _cropped(self, occurrence: Occurrence) -> Occurrence:
        """The occurrence with LONGEST tokens around its word, where its text has more."""
        if len(occurrence.text) <= LONGEST:
            return occurrence
        spans = self._tokenizer(occurrence.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        if len(spans) <= LONGEST:
            return occurrence
        at = next((index for index, (_, end) in enumerate(spans) if end > occurrence.start), 0)
        first = min(max(0, at - LONGEST // 2), len(spans) - LONGEST)
        left, right = spans[first][0], spans[first + LONGEST - 1][1]
        text, start = occurrence.text[left:right], occurrence.start - left
        return Occurrence(text, start, min(occurrence.end - left, len(text)))

    def _batch(self, occurrences: list[Occurrence]) -> Iterator[TokenStates]:
        import torch

        inputs = self._tokenizer(
            [one.text for one in occurrences], padding=True, truncation=True, max_length=LONGEST + 2,
            return_offsets_mapping=True, return_special_tokens_mask=True, return_tensors="pt",
        )  # fmt: skip
        spans_BT2, special_BT = inputs.pop("offset_mapping").numpy(), inputs.pop("special_tokens_mask").bool().numpy()
        lengths = inputs["attention_mask"].sum(1).tolist()
        inputs = inputs.to(self._model.device)
        with torch.inference_mode():
            layers_LBTD = self._model(**inputs, output_hidden_states=True).hidden_states
            static_BTD = self._model.get_input_embeddings()(inputs["input_ids"]).float().cpu().numpy()
        layers_LBTD = [states.float().cpu().numpy() for states in layers_LBTD]
        ids_BT = inputs["input_ids"].cpu().numpy()
        for row, (one, length) in enumerate(zip(occurrences, lengths, strict=True)):
            own, special = _own(spans_BT2[row, :length], one), special_BT[row, :length]
            layers = [states[row, :length] for states in layers_LBTD]
            yield TokenStates(ids_BT[row, :length], own & ~special, special, static_BTD[row, :length], layers)


def _own(spans_T2: np.ndarray, one: Occurrence) -> np.ndarray:
    """Which tokens share a character with the word, (T,). Raises DataError where none does, and the text is not
    empty."""
    starts, ends = spans_T2[:, 0], spans_T2[:, 1]
    own = (starts < one.end) & (ends > one.start) & (ends > starts)
    if not own.any() and one.text.strip():
        shown = one.text if len(one.text) <= 60 else f"{one.text[:59]}…"
        raise DataError(f"{one.word!r} in {shown!r} has no token of the encoder", "mark a word of letters or digits")
    return own


def open_layers(name: str, model: ModelSource | None = None, adapter: Path | None = None) -> LayerEncoder:
    """The model of that name: one of PACKAGED, a directory or hub id, or `model`, the language model given, with the
    PEFT adapter in the directory `adapter` where one is named: base and fine-tuned model side by side.

    Raises ConfigError and ModelError as `open_encoder`, and where an adapter stands beside anything but `model`.
    """
    if name != "model":
        if adapter:
            raise ConfigError(f"encoder {name!r}: an adapter is of a language model", "name the encoder model")
        return LayerEncoder(name, *load_encoder(name))
    if model is None:
        raise ConfigError("encoder 'model': no language model is named", "name a configuration, not a file of rows")
    named = f"model:{model.name}" + (f"+{adapter}" if adapter else "")
    return LayerEncoder(named, *load_language_model(model, adapter))
