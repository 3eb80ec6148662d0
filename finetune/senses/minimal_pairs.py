"""Minimal pairs: two sentences that differ in a word or two, in which the marked word has another sense.

A bag of words that has not seen what they differ in cannot tell them apart, and the commonest sense is right of half.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from finetune.embeddings import Occurrence
from finetune.senses.rows import SenseRow

PAIRS = Path(str(files("finetune.senses") / "minimal_pairs.jsonl"))
"""Words of chess in frames written for this. The half `dev` was looked at when choices were made, `held` was not."""


def minimal_pairs(half: str | None = None) -> list[SenseRow]:
    """Two rows for each pair, chess first; of one half alone where it is named."""
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    return [_row(pair, label) for pair in pairs if half in (None, pair["half"]) for label in ("chess", "other")]


def _row(pair: dict[str, str], label: str) -> SenseRow:
    """The word is marked where the frame has it, not where what is put into the frame does."""
    found = re.search(rf"\b{pair['lemma']}s?\b", pair["frame"])
    start = len(pair["frame"][: found.start()].format(pair[label]))
    occurrence = Occurrence(pair["frame"].format(pair[label]), start, start + len(found[0]))
    return SenseRow(pair["lemma"], occurrence.lowered(), label)
