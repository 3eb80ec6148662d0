"""The data of the word-sense benchmark as marked rows: CoarseWSD-20, king_senses, OEWN."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.senses import SenseRow, sense_rows


def coarse_words(folder: Path) -> list[str]:
    """The words that have rows of their own."""
    return sorted(inside.name for inside in folder.iterdir() if (inside / "classes_map.txt").is_file())


def coarse(folder: Path, word: str, split: str) -> list[SenseRow]:
    """Rows of a word. Each line has the number of the marked word, a tab, and words set apart by spaces."""
    names = json.loads((folder / word / "classes_map.txt").read_text(encoding="utf-8"))
    lines = (folder / word / f"{split}.data.txt").read_text(encoding="utf-8").splitlines()
    gold = (folder / word / f"{split}.gold.txt").read_text(encoding="utf-8").split()
    rows = []
    for number, (line, sense) in enumerate(zip(lines, gold, strict=True), start=1):
        place, _, text = line.partition("\t")
        words = text.split(" ")
        start = len(" ".join([*words[: int(place)], ""]))
        end = start + len(words[int(place)])
        row = {"text": text, "start": start, "end": end, "lemma": word, "label": names[sense]}
        rows.append((f"line {number}", row))
    return sense_rows(rows, f"{word}/{split}", labelled=True)


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def marked(rows: Iterable[dict[str, Any]]) -> list[SenseRow]:
    """Rows that are in the format of `finetune senses`."""
    return sense_rows(((f"row {number}", row) for number, row in enumerate(rows, start=1)), "rows", labelled=True)


def wic(path: Path) -> tuple[list[SenseRow], list[SenseRow], list[bool]]:
    """First and second sentence of each pair, and whether the word means the same in both."""
    pairs = lines(path)
    sides = [
        marked(
            {
                "text": pair[f"sentence{side}"], "start": pair[f"start{side}"], "end": pair[f"end{side}"],
                "lemma": pair["word"], "label": "same" if pair["label"] else "other",
            }
            for pair in pairs
        )
        for side in (1, 2)
    ]  # fmt: skip
    return sides[0], sides[1], [pair["label"] for pair in pairs]


def glosses(path: Path) -> dict[str, dict[str, list[str]]]:
    """Definitions of each word of king_senses: those that name chess, and the others."""
    found: dict[str, dict[str, list[str]]] = {}
    for sense in lines(path):
        if sense["pos"] not in ("n", "v"):
            continue
        label = "chess" if "chess" in sense["definition"] else "other"
        found.setdefault(sense["lemma"], {"chess": [], "other": []})[label].append(sense["definition"])
    return found
