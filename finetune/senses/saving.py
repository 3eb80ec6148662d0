"""A fitted model on disk: senses.json with words, labels and counts, senses.safetensors with the numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune.embeddings import LayerEncoder
from finetune.errors import ConfigError, ModelError
from finetune.senses.baselines import BagOfWords
from finetune.senses.model import Group, SenseModel
from finetune.senses.nearest import Centroids
from finetune.senses.views import VIEWS, Rarity
from finetune.whole_file import write_folder

FORMAT = 1
"""Version of what is written; another one is refused."""

KIND = "finetune senses"
FACTS, NUMBERS = "senses.json", "senses.safetensors"

PROBE = "the quick brown fox jumps over the lazy dog"
"""A text whose vector tells whether an encoder of the same name is still the same."""


def require_free(out: Path) -> None:
    """Raises ConfigError where the directory to write exists, or its parent does not."""
    if out.exists():
        raise ConfigError(f"--out {out}: exists already", "name a new directory, or move it")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: its parent is no directory", "make it first")


def save(model: SenseModel, encoder: LayerEncoder, out: Path) -> None:
    """Writes the directory beside its place and moves it there: it appears whole or not at all. Raises ConfigError
    where it exists or cannot be written."""
    from safetensors.numpy import save as to_bytes

    require_free(out)
    numbers = to_bytes(_numbers(model) | {"probe": encoder.sentences([PROBE])[0]})
    facts = _facts(model) | {"sha256": hashlib.sha256(numbers).hexdigest()}
    try:
        write_folder(
            out.absolute(), {NUMBERS: numbers, FACTS: (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode()}
        )
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})", "name another") from None


def _facts(model: SenseModel) -> dict[str, Any]:
    """What is not an array: counts are lists of [label, rows], for a label may be a number."""
    groups = [
        {
            "view": group.view,
            "labels": group.centroids.labels,
            "counts": {lemma: list(map(list, counts.items())) for lemma, counts in group.counts.items()},
        }
        for group in model.groups
    ]
    words = {lemma: {"labels": bag.labels, "words": bag.words} for lemma, bag in model.words.items()}
    return {"kind": KIND, "format": FORMAT, "encoder": model.encoder, "groups": groups, "words": words}


def _numbers(model: SenseModel) -> dict[str, np.ndarray]:
    arrays = {
        "tokens": np.array(list(model.rarity.counts), np.int64),
        "token_counts": np.array(list(model.rarity.counts.values()), np.int64),
    }
    for number, group in enumerate(model.groups):
        arrays |= {f"weights.{number}": group.centroids.weights, f"biases.{number}": group.centroids.biases}
    for number, bag in enumerate(model.words.values()):
        own = {"rarities": bag.rarities, "weights": bag.weights, "biases": bag.biases}
        arrays |= {f"words.{number}.{name}": array for name, array in own.items()}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # safetensors writes memory as it lies


def load(path: Path) -> tuple[SenseModel, np.ndarray]:
    """A saved model, and its probe for `require_same`. Raises ModelError where the directory holds none, one of another
    format, or a damaged one."""
    hint = "name a directory that `finetune senses fit` wrote, or fit again"
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        numbers = (path / NUMBERS).read_bytes()
    except OSError as error:
        reason = f"{Path(error.filename or path).name}: {error.strerror or error}"
        raise ModelError(f"{path} holds no fitted senses ({reason})", hint) from None
    except ValueError as error:
        raise ModelError(f"{path}/{FACTS} is damaged ({error})", hint) from None
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise ModelError(f"{path}/{FACTS} is not of `finetune senses fit`", hint)
    if facts.get("format") != FORMAT:
        raise ModelError(f"{path}: format {facts.get('format')!r}, this version reads {FORMAT}", "fit again")
    if hashlib.sha256(numbers).hexdigest() != facts.get("sha256"):
        raise ModelError(f"{path}/{NUMBERS} is damaged: it is not the file that was written", hint)
    try:
        return _built(facts, numbers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}/{FACTS} is damaged ({type(error).__name__}: {error})", hint) from None


def _built(facts: dict[str, Any], numbers: bytes) -> tuple[SenseModel, np.ndarray]:
    from safetensors.numpy import load as from_bytes

    arrays = from_bytes(numbers)
    groups = []
    for number, stated in enumerate(facts["groups"]):
        weights, labels = arrays[f"weights.{number}"], stated["labels"]
        counts = {lemma: dict(map(tuple, found)) for lemma, found in stated["counts"].items()}
        if stated["view"] not in VIEWS or len(labels) != len(weights) or not counts:
            raise ValueError(f"group {number} does not fit its numbers")
        groups.append(Group(stated["view"], counts, Centroids(labels, weights, arrays[f"biases.{number}"])))
    if not groups or not isinstance(facts["encoder"], str):
        raise ValueError("no words, or no encoder")
    rarity = Rarity(dict(zip(arrays["tokens"].tolist(), arrays["token_counts"].tolist(), strict=True)))
    words = {
        lemma: BagOfWords(
            stated["labels"], stated["words"],
            *(arrays[f"words.{number}.{name}"] for name in ("rarities", "weights", "biases")),
        )
        for number, (lemma, stated) in enumerate(facts["words"].items())
    }  # fmt: skip
    return SenseModel(facts["encoder"], rarity, groups, words), arrays["probe"]


def require_same(encoder: LayerEncoder, probe: np.ndarray, path: Path) -> None:
    """Raises ModelError where the encoder gives other vectors than the one that the senses were fitted with."""
    found = encoder.sentences([PROBE])[0]
    if found.shape != probe.shape or not np.allclose(found, probe, rtol=0, atol=0.05 * np.abs(probe).max()):
        hint = "fit again with this one, or restore the other"
        raise ModelError(f"{path}: encoder {encoder.name!r} is not the one that it was fitted with", hint)
