"""How far embeddings find the defects that rules cannot: answers cut off, and answers to other questions.

    python benchmarks/curation_messy.py LABELLED.jsonl [--json benchmarks/results/curation_messy.json]

A labelled row names its defect under `defect`, null where it has none; the label is taken off before anything is
encoded. `auc` is the probability that a faulty row is ranked above a clean one, .5 by chance; `precision_of_as_many`
the share of faulty rows among as many of the highest scores as there are faulty rows. The result has no text of a row.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from finetune.curation.neighbours import neighbour_distance
from finetune.curation.outliers import isolation_score
from finetune.data.check import check_file
from finetune.data.faults import RowFault
from finetune.data.rules import texts_of
from finetune.embeddings import PACKAGED, TextEncoder, open_encoder

BEYOND_RULES = ("truncated_output", "mismatched_output")
"""Defects that rules cannot find."""


def main() -> None:
    """Measures, prints, writes."""
    options = _arguments()
    encoder = open_encoder(next(iter(PACKAGED)))
    result = {"encoder": encoder.name, **messy(options.labelled, encoder)}
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def messy(path: Path, encoder: TextEncoder) -> dict[str, Any]:
    """AUC of each defect beyond rules against clean rows, by four scores."""
    flagged = check_file(path).flagged
    asked, answers, defects, rules = [], [], [], []
    for row, line in enumerate(path.open(encoding="utf-8")):
        value = json.loads(line)
        defect = value.pop("defect")
        if defect is not None and defect not in BEYOND_RULES:
            continue
        try:
            texts = texts_of({key: value[key] for key in ("instruction", "input", "output")})
        except RowFault:
            continue
        asked.append(texts.question)
        answers.append(texts.answer)
        defects.append(defect)
        rules.append(row in flagged)
    questions, replies = encoder.encode(asked), encoder.encode(answers)
    whole = encoder.encode([f"{one}\n{other}" for one, other in zip(asked, answers, strict=True)])
    scores = {
        "question_unlike_answer": 1 - (questions * replies).sum(axis=1),
        "answer_unlike_those_of_like_questions": _unlike_those_of_like_questions(questions, replies),
        "neighbour_distance": neighbour_distance(whole, 10, seed=0),
        "isolation_forest": isolation_score(whole, seed=0),
    }
    clean = np.array([defect is None for defect in defects])
    found = {"clean": int(clean.sum()), "kinds": {}}
    for kind in BEYOND_RULES:
        faulty = np.array([defect == kind for defect in defects])
        found["kinds"][kind] = {
            "rows": int(faulty.sum()),
            "flagged_by_rules": int(np.sum(np.array(rules)[faulty])),
            "auc": {name: _auc(faulty, clean, score) for name, score in scores.items()},
            "precision_of_as_many": {name: _precision(faulty, clean, score) for name, score in scores.items()},
            "precision_by_chance": round(float(faulty.sum() / (faulty | clean).sum()), 3),
        }
    return found


def _unlike_those_of_like_questions(questions: np.ndarray, answers: np.ndarray, k: int = 5) -> np.ndarray:
    """Distance of an answer to the nearest answer of the k most alike questions."""
    alike = questions @ questions.T
    np.fill_diagonal(alike, -1)
    near = np.argsort(-alike, axis=1)[:, :k]
    return 1 - np.einsum("nd,nkd->nk", answers, answers[near]).max(axis=1)


def _auc(faulty: np.ndarray, clean: np.ndarray, score: np.ndarray) -> float:
    among = faulty | clean
    return round(float(roc_auc_score(faulty[among], score[among])), 3)


def _precision(faulty: np.ndarray, clean: np.ndarray, score: np.ndarray) -> float:
    """Share of faulty rows among as many of the highest scores as there are faulty rows."""
    among = np.flatnonzero(faulty | clean)
    highest = among[np.argsort(-score[among], kind="stable")[: int(faulty.sum())]]
    return round(float(faulty[highest].mean()), 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
