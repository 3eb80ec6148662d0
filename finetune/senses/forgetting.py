"""What fine-tuning did to the meaning of words: the base and the tuned model side by side on the same marked sentences.

Two figures decide. Sense separation (`scores.separation`), the mean over words and layers, tells whether the states
still know the senses; the loss of the sentences, in nats a token, whether the model still writes general English.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.embeddings import LayerEncoder, TokenStates
from finetune.errors import DataError
from finetune.senses.rows import SenseRow, by_lemma
from finetune.senses.scores import RESAMPLES, Interval, pair_accuracy
from finetune.senses.views import unit

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

PROBE = Path(str(files("finetune.senses") / "probe.jsonl"))
"""Sentences of eight words with two senses each, six for a sense, written for this check."""

LOST = {"separation": -0.02, "loss": 0.1}
"""Changes that count as forgetting: separation by this much lower, or loss by this many nats a token higher."""

BATCH = 8
"""Texts in one forward pass of the loss."""

LONGEST = 512
"""Tokens of a text that its loss is taken over."""


@dataclass(frozen=True)
class Measured:
    """One model on n rows: `vectors` (n, layers, D), centred at each layer; summed `losses` (n,) in nats of `tokens`
    (n,) each."""

    vectors: np.ndarray
    losses: np.ndarray
    tokens: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether the model still gives numbers."""
        return bool(np.isfinite(self.vectors).all() and np.isfinite(self.losses).all())


def require_two_of_each(rows: Sequence[SenseRow], name: str) -> None:
    """Raises DataError where a sense has a single row: it has no pair."""
    lone = [
        f"{lemma}: {sense!r}"
        for lemma, found in by_lemma(rows).items()
        for sense in dict.fromkeys(row.label for row in found)
        if sum(row.label == sense for row in found) < 2
    ]
    if lone:
        raise DataError(f"{name}: one row alone of {', '.join(lone)}", "give every sense two rows and more")


def compare(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[SenseRow], texts: Sequence[str]
) -> dict[str, Any]:
    """What `finetune eval --forgetting --json` prints. `texts` are those of the rows as they were written: states are
    taken in lower case, losses as written."""
    with model.disable_adapter():
        base = _measure(model, tokenizer, rows, texts)
    tuned = _measure(model, tokenizer, rows, texts)
    return verdict(base, tuned, rows)


def _measure(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[SenseRow], texts: Sequence[str]
) -> Measured:
    causal = model.get_base_model()
    encoder = LayerEncoder("probed", getattr(causal, causal.base_model_prefix), tokenizer)
    vectors = encoder.encode([row.occurrence for row in rows], _pool)
    return Measured(vectors - vectors.mean(0), *_losses(model, tokenizer, texts))


def _pool(tokens: TokenStates) -> np.ndarray:
    """The mean of the unit states of all tokens but the first after each layer, (layers, D): a causal model's first
    state is far larger than the others and has seen nothing."""
    return np.stack([unit(layer[1:] if len(layer) > 1 else layer).mean(0) for layer in tokens.layers[1:]])


def _losses(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Summed loss of each text after its first token, and the number of tokens that it is over."""
    import torch

    sums, counts = [], []
    for start in range(0, len(texts), BATCH):
        inputs = tokenizer(
            list(texts[start : start + BATCH]), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            logits_BTV = model(**inputs, use_cache=False).logits[:, :-1].float()
        loss_BT = torch.nn.functional.cross_entropy(logits_BTV.mT, inputs["input_ids"][:, 1:], reduction="none")
        mask_BT = inputs["attention_mask"][:, 1:]
        sums += (loss_BT.double() * mask_BT).sum(1).tolist()
        counts += mask_BT.sum(1).tolist()
    return np.array(sums), np.array(counts)


def verdict(base: Measured, tuned: Measured, rows: Sequence[SenseRow], seed: int = 0) -> dict[str, Any]:
    """Both models' figures, their changes with 95 % bootstrap intervals paired over rows, and what follows.

    A figure is forgotten where the whole interval of its change lies beyond LOST, kept where none of it does, else
    unclear. The model has forgotten where a figure has; it has kept the meaning of words where all have.
    """
    found = {"rows": len(rows), "words": len(by_lemma(rows)), "tokens": int(base.tokens.sum())}
    if not tuned.finite:
        return found | {"verdict": "forgotten", "reason": "the tuned model gives no finite numbers"}
    weights = _weights(rows, seed)
    figures = [_figures(one, rows, weights) for one in (base, tuned)]
    changes = {name: _interval(figures[1][name] - figures[0][name]) for name in figures[0]}
    verdicts = {name: _judged(changes[name], lost) for name, lost in LOST.items()}
    pairs = [_pairs(one.vectors, rows) for one in (base, tuned)]
    return found | {
        "verdict": next(word for word in ("forgotten", "unclear", "kept") if word in verdicts.values()),
        "verdicts": verdicts,
        "limits": LOST,
        **{
            name: {key: float(values[0]) for key, values in of.items()} | {"pairs": share}
            for name, of, share in zip(("base", "tuned"), figures, pairs, strict=True)
        },
        "change": {name: [one.value, one.low, one.high] for name, one in changes.items()},
        "layers": [
            list(map(float, pair)) for pair in zip(*(_by_layer(one, rows) for one in (base, tuned)), strict=True)
        ],
    }


def _judged(change: Interval, lost: float) -> str:
    low, high = sorted((change.low / lost, change.high / lost))  # in units of what counts as forgetting
    return "forgotten" if low > 1 else "kept" if high < 1 else "unclear"


def _interval(resampled: np.ndarray) -> Interval:
    low, high = np.percentile(resampled[1:], [2.5, 97.5])
    return Interval(float(resampled[0]), float(low), float(high))


def _weights(rows: Sequence[SenseRow], seed: int) -> np.ndarray:
    """How often each row is in each resample, (1 + RESAMPLES, n): the first has every row once, the others are drawn
    within each sense of each word."""
    rng = np.random.default_rng(seed)
    found = np.ones((1 + RESAMPLES, len(rows)))
    senses = [(row.lemma, row.label) for row in rows]
    for sense in dict.fromkeys(senses):
        own = [at for at, one in enumerate(senses) if one == sense]
        found[1:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), RESAMPLES)
    return found


def _figures(one: Measured, rows: Sequence[SenseRow], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each figure of every resample, (1 + RESAMPLES,)."""
    right = np.stack([_nearest_right(layer, rows) for layer in one.vectors.swapaxes(0, 1)]).mean(0)
    separations = [_separations(layer, rows, weights) for layer in one.vectors.swapaxes(0, 1)]
    return {
        "separation": np.mean(separations, axis=0),
        "accuracy": weights @ right / weights.sum(1),
        "loss": weights @ one.losses / (weights @ one.tokens),
    }


def _nearest_right(vectors: np.ndarray, rows: Sequence[SenseRow]) -> np.ndarray:
    """Whether the nearest other row of the word has the row's sense, (n,)."""
    right = np.zeros(len(rows))
    for own, labels in _of_words(rows):
        cosines = _cosines(vectors[own])
        np.fill_diagonal(cosines, -np.inf)
        right[own] = labels[cosines.argmax(1)] == labels
    return right


def _separations(vectors: np.ndarray, rows: Sequence[SenseRow], weights: np.ndarray) -> np.ndarray:
    """Mean of `scores.separation` over words in every resample, (1 + RESAMPLES,): a pair counts as often as both of its
    rows are drawn. Where a resample leaves a word no pair of one sense, its separation of all rows stands."""
    found = []
    for own, labels in _of_words(rows):
        one, other = np.triu_indices(len(own), 1)
        cosines, same = _cosines(vectors[own])[one, other], labels[one] == labels[other]
        above = np.sign(cosines[same][:, None] - cosines[~same][None]) / 2 + 0.5
        pairs = weights[:, own][:, one] * weights[:, own][:, other]
        of_same, of_two = pairs[:, same], pairs[:, ~same]
        total = of_same.sum(1) * of_two.sum(1)
        shares = ((of_same @ above) * of_two).sum(1) / np.maximum(total, 1)
        found.append(np.where(total > 0, shares, shares[0]))
    return np.mean(found, axis=0)


def _by_layer(one: Measured, rows: Sequence[SenseRow]) -> list[float]:
    """Separation after each layer."""
    once = np.ones((1, len(rows)))
    return [_separations(layer, rows, once)[0] for layer in one.vectors.swapaxes(0, 1)]


def _pairs(vectors: np.ndarray, rows: Sequence[SenseRow]) -> float | None:
    """`scores.pair_accuracy` of all pairs of each word, the threshold from the other half of the words, the mean over
    halves and layers; None of a single word."""
    words = list(_of_words(rows))
    if len(words) < 2:
        return None
    found = []
    for layer in vectors.swapaxes(0, 1):
        halves = [_same_and_cosines(layer, words[half::2]) for half in (0, 1)]
        found += [pair_accuracy(*halves[half], *halves[1 - half]) for half in (0, 1)]
    return float(np.mean(found))


def _same_and_cosines(vectors: np.ndarray, words: Sequence[tuple[list[int], np.ndarray]]) -> tuple[np.ndarray, ...]:
    same, cosines = [], []
    for own, labels in words:
        one, other = np.triu_indices(len(own), 1)
        same.append(labels[one] == labels[other])
        cosines.append(_cosines(vectors[own])[one, other])
    return np.concatenate(same), np.concatenate(cosines)


def _of_words(rows: Sequence[SenseRow]) -> list[tuple[list[int], np.ndarray]]:
    """Places of each word's rows, and their senses."""
    return [
        (own, np.array([str(rows[at].label) for at in own]))
        for lemma in dict.fromkeys(row.lemma for row in rows)
        for own in [[at for at, row in enumerate(rows) if row.lemma == lemma]]
    ]


def _cosines(vectors: np.ndarray) -> np.ndarray:
    normed = unit(vectors)
    return normed @ normed.T
