"""Sentences of words with two senses, written for the tests, and the rows they make."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.embeddings import Occurrence
from finetune.senses import SenseRow

BASS = {
    "fish": [
        "he caught a large bass in the lake",
        "the bass swam under the boat and took the bait",
        "grilled bass with lemon was served for dinner",
        "a striped bass lives in rivers and along the coast",
        "the angler released the bass into the water",
        "we saw a bass leap near the reeds of the pond",
    ],
    "music": [
        "she plays bass in a jazz band",
        "the bass and the drums keep the rhythm",
        "he tuned his bass before the concert",
        "turn up the bass of the speakers",
        "the song begins with a slow bass and a guitar",
        "a bass solo opened the second album",
    ],
}
CRANE = {
    "bird": [
        "a crane built its nest in the marsh",
        "the crane spread its wings and flew south",
        "a grey crane stood on one leg in the reeds",
        "the crane fed on frogs and insects",
        "we heard the call of the crane at dawn",
        "the crane laid two eggs in spring",
    ],
    "machine": [
        "the crane lifted the steel beam",
        "a crane at the harbour unloads containers",
        "the operator climbed into the cabin of the crane",
        "a tall crane stood over the building site",
        "the crane lowered the concrete onto the truck",
        "the load was too heavy for the crane",
    ],
}

BISHOP = {
    "chess": [
        "white trades the bishop for a knight and keeps the pawns",
        "the bishop on the long diagonal attacks the rook",
        "black wins a pawn after the bishop gives check",
        "develop the bishop before you castle",
    ],
    "other": [
        "the bishop preached in the cathedral on easter day",
        "the pope made him bishop of the diocese",
        "a bishop blessed the congregation and the priests",
        "the bishop was buried beneath the altar",
    ],
}
QUEEN = {
    "chess": [
        "the queen gives mate on the seventh rank",
        "black must lose the queen or the rook",
        "the pawn is promoted to a queen on the last square",
        "an exchange of the queen leads to an endgame",
    ],
    "other": [
        "the queen opened parliament in her crown",
        "the people cheered as the queen rode by",
        "the queen married a prince of denmark",
        "her majesty the queen gave a ball at the palace",
    ],
}


def marked(lemma: str, sentences: dict[str, list[str]]) -> list[SenseRow]:
    """The rows of sentences that hold the word once, as it is."""
    return [
        SenseRow(lemma, Occurrence(text, text.index(lemma), text.index(lemma) + len(lemma)), label)
        for label, texts in sentences.items()
        for text in texts
    ]


def write(path: Path, rows: list[SenseRow], *, labels: bool = True) -> Path:
    """The rows as a file of `finetune senses`."""
    lines = []
    for row in rows:
        one = row.occurrence
        value = {"text": one.text, "start": one.start, "end": one.end, "lemma": row.lemma}
        lines.append(json.dumps(value | ({"label": row.label} if labels else {})) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
