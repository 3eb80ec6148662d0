"""What is kept of a row to find its copies: a digest, two MinHash signatures, and how tidy and long it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from hashlib import blake2b

import numpy as np
from rensa import RMinHash

from finetune.data.formats import Example
from finetune.data.rules.view import Texts

WHOLE, ANSWER = 120, 32
"""Hash functions for the whole row and for its answers: standard deviations of the estimate at .8 of .04 and .07."""

SHINGLE = 3
"""Words in a row that count as one."""

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A word; of Chinese, Japanese and Korean, which write none apart, a character."""


@dataclass(frozen=True)
class Fingerprints:
    """Arrays of one entry a row, 332 bytes each with signatures and 28 without.

    `line`: the row's line or number from 1; `digest`: 64 bits of its texts; `untidy`: how many of its texts have blanks
    around them; `size`: characters; `signature`: WHOLE + ANSWER hashes, or no columns where near copies are not sought.
    Of each hash 16 bits are kept, which two different ones share once in 65,536 times (b-bit MinHash, Li and König,
    2010).
    """

    line: np.ndarray
    digest: np.ndarray
    untidy: np.ndarray
    size: np.ndarray
    signature: np.ndarray

    @staticmethod
    def joined(parts: list[Fingerprints]) -> Fingerprints:
        """All rows of several parts, of which there is at least one."""
        names = [field.name for field in fields(Fingerprints)]
        return Fingerprints(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def where(self, wanted: np.ndarray) -> Fingerprints:
        """The rows for which a boolean array is true."""
        return Fingerprints(**{field.name: getattr(self, field.name)[wanted] for field in fields(Fingerprints)})


def fingerprints(rows: list[tuple[int, Texts]], *, near: bool) -> Fingerprints:
    """Of rows with their lines. System prompts, which many rows share, count for exact copies alone."""
    every = [texts for _, texts in rows]
    signatures = [signature(texts) for texts in every] if near else []
    width = WHOLE + ANSWER if near else 0
    return Fingerprints(
        line=np.array([line for line, _ in rows], np.int64),
        digest=np.array([digest(texts.examples) for texts in every], np.uint64),
        untidy=np.array([sum(part != part.strip() for part in (*t.asked, *t.answers)) for t in every], np.int32),
        size=np.array([len(texts.question) + len(texts.answer) for texts in every], np.int64),
        signature=np.array(signatures, np.uint32).astype(np.uint16).reshape(len(rows), width),
    )


def digest(examples: Iterable[Example]) -> int:
    """64 bits of all texts, tools and calls: two different rows among a million share them once in 37 million files."""
    whole = repr([(one.messages, one.tools, one.text) for one in examples])
    return int.from_bytes(blake2b(whole.encode(), digest_size=8).digest())


def signature(texts: Texts) -> list[int]:
    """MinHash of the whole row, then of its answers and calls."""
    calls = [
        str(message["tool_calls"]) for one in texts.examples for message in one.messages if "tool_calls" in message
    ]
    asked, answered = _words(texts.question), _words(" ".join([texts.answer, *calls]))
    return _min_hash(asked + answered, WHOLE) + _min_hash(answered, ANSWER)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _min_hash(words: list[str], functions: int) -> list[int]:
    later = [words[start:] for start in range(SHINGLE)]
    shingles = [" ".join(shingle) for shingle in zip(*later, strict=False)]
    sketch = RMinHash(num_perm=functions, seed=0)
    sketch.update(shingles or [" ".join(words)])
    return sketch.digest()
