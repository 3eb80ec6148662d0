"""Encoders: what turns texts into vectors whose product is their cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finetune.embeddings.loading import INSTALL, NAMES, load_language_model, located
from finetune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetune.spec.source import ModelSource

BATCH = 64
"""Texts in one forward pass."""

LONGEST = 512
"""Tokens of a text that a language model's hidden states are taken over."""


class TextEncoder(Protocol):
    """Turns texts into vectors. `name` tells encoders apart: equal names give equal vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, (texts, dimensions), float32."""
        ...


def open_encoder(name: str, model: ModelSource | None = None, adapter: Path | None = None) -> TextEncoder:
    """The encoder of that name: one of PACKAGED, a directory or hub id that sentence-transformers loads, or `model`,
    the hidden states of the language model given, with the PEFT adapter in the directory `adapter` where one is named.

    Raises ConfigError where the name needs a package that is not installed, or a model that is not given; ModelError
    where it cannot be loaded.
    """
    if name == "model":
        if model is None:
            raise ConfigError("encoder 'model': no language model is named", "name a configuration, not a file of rows")
        return HiddenStates(model, adapter)
    return SentenceEncoder(name)


class SentenceEncoder:
    """A sentence encoder of sentence-transformers (Reimers and Gurevych 2019), with its own pooling."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            from sentence_transformers import SentenceTransformer

            where = located(name)
        except ImportError as error:
            raise ConfigError(f"encoder {name!r}: {error.name} is not installed", INSTALL) from None
        try:
            self._model: SentenceTransformer = SentenceTransformer(where)
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"encoder {name!r} cannot be loaded ({first})", NAMES) from None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `TextEncoder`."""
        return self._model.encode(
            list(texts), batch_size=BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )


class HiddenStates:
    """Vectors of a causal language model: the mean over a text's tokens of the states after its middle layer, where
    they hold the most of a text's meaning (Skean et al. 2025, "Layer by Layer")."""

    def __init__(self, source: ModelSource, adapter: Path | None = None) -> None:
        self.name = f"model:{source.name}" + (f"+{adapter}" if adapter else "")
        self._source, self._adapter = source, adapter

    @cached_property
    def _parts(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        model, tokenizer = load_language_model(self._source, self._adapter)
        tokenizer.padding_side = "right"
        return model, tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `TextEncoder`."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding
        vectors = [
            self._batch([texts[i] for i in order[start : start + BATCH]]) for start in range(0, len(order), BATCH)
        ]
        found = np.empty((len(texts), vectors[0].shape[1] if vectors else 0), dtype=np.float32)
        found[order] = np.concatenate(vectors) if vectors else found
        return found

    def _batch(self, texts: list[str]) -> np.ndarray:
        import torch

        model, tokenizer = self._parts
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            states_BTD = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        middle_BTD = states_BTD[len(states_BTD) // 2].float()
        mask_BT1 = inputs["attention_mask"].unsqueeze(-1)
        mean_BD = (middle_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()
