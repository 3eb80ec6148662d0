"""finetune senses fit and predict, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from marked_rows import BASS, CRANE, marked, write
from typer.testing import CliRunner, Result

from finetune.cli.main import app
from finetune.embeddings import LayerEncoder
from finetune.errors import FinetuneError

TEST = {"fish": ["the fisherman hooked a bass in the river"], "music": ["the bass played a low note on stage"]}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["senses", *map(str, arguments)], env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def fitted(encoder: LayerEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    train = write(folder / "train.jsonl", marked("bass", BASS) + marked("crane", CRANE))
    result = call("fit", train, "--out", folder / "fitted")
    assert result.exit_code == 0, result.output
    assert "bass" in result.stdout and "fish 6, music 6" in result.stdout
    return folder / "fitted"


def refused(*arguments: object) -> FinetuneError:
    result = call(*arguments)
    assert isinstance(result.exception, FinetuneError), result.output
    return result.exception


def test_predict_as_json(fitted: Path, tmp_path: Path) -> None:
    rows = marked("bass", TEST)
    answer = json.loads(call("predict", fitted, write(tmp_path / "t.jsonl", rows), "--json").stdout)
    assert list(answer) == ["accuracy", "per_lemma", "predictions"] and answer["accuracy"] == 1
    bass = answer["per_lemma"]["bass"]
    assert bass["accuracy"] == bass["macro_recall"] == 1 and bass["rows"] == 2
    assert bass["recall"] == {"fish": 1, "music": 1}
    assert bass["confusion"] == {"fish": {"fish": 1}, "music": {"music": 1}}
    assert [(one["lemma"], one["label"], one["gold"]) for one in answer["predictions"]] == [
        ("bass", "fish", "fish"),
        ("bass", "music", "music"),
    ]
    assert all(0.5 < one["confidence"] <= 1 for one in answer["predictions"])


def test_wrong_labels_are_counted(fitted: Path, tmp_path: Path) -> None:
    swapped = marked("bass", {"music": TEST["fish"] + BASS["music"][:1], "fish": BASS["fish"][:2]})
    answer = json.loads(call("predict", fitted, write(tmp_path / "t.jsonl", swapped), "--json").stdout)
    assert answer["accuracy"] == 0.75
    assert answer["per_lemma"]["bass"]["confusion"] == {"music": {"fish": 1, "music": 1}, "fish": {"fish": 2}}


def test_predict_without_labels(fitted: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", marked("bass", TEST), labels=False)
    answer = json.loads(call("predict", fitted, source, "--json").stdout)
    assert answer["accuracy"] is None
    assert answer["per_lemma"] == {"bass": {"rows": 2, "accuracy": None}}
    assert [one["label"] for one in answer["predictions"]] == ["fish", "music"]
    assert "gold" not in answer["predictions"][0]
    shown = call("predict", fitted, source).stdout
    assert "fish" in shown and "hooked a bass in the river" in shown


def test_case_of_text_and_lemma_changes_nothing(fitted: Path, tmp_path: Path) -> None:
    lower = write(tmp_path / "lower.jsonl", marked("bass", TEST))
    upper = tmp_path / "upper.jsonl"
    values = [json.loads(line) for line in lower.read_text().splitlines()]
    shouted = [value | {"text": value["text"].upper(), "lemma": "Bass"} for value in values]
    upper.write_text("".join(json.dumps(value) + "\n" for value in shouted))
    assert call("predict", fitted, lower, "--json").stdout == call("predict", fitted, upper, "--json").stdout


def test_figures_for_people(fitted: Path, tmp_path: Path) -> None:
    rows = marked("bass", TEST) + marked("crane", {"bird": CRANE["bird"][:3]})
    shown = call("predict", fitted, write(tmp_path / "t.jsonl", rows)).stdout
    assert "accuracy 1.000 on 5 labelled of 5 rows" in shown
    assert "commonest sense" in shown and "bag of words" in shown
    bass = next(line for line in shown.splitlines() if line.startswith("bass  "))
    assert bass.split() == ["bass", "2", "1.000", "1.000", "to", "1.000", "1.000", "0.500", *bass.split()[8:]]
    assert "bass: true sense" in shown and "told fish" in shown


def test_senses_that_rest_on_few_rows_are_noted(encoder: LayerEncoder, tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", marked("bass", {"fish": BASS["fish"], "music": BASS["music"][:1]}))
    result = call("fit", train, "--out", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["lemmas"] == {"bass": {"senses": {"fish": 6, "music": 1}, "shared_with": []}}
    assert "note: bass: sense 'music' rests on 1 row\n" in result.stderr


def test_faults_of_the_files(fitted: Path, tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", marked("bass", BASS))
    out = tmp_path / "out"
    empty, broken, no_rows = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl", tmp_path / "span.jsonl"
    empty.write_text("")
    broken.write_text('{"text": "a bass"\nbass\n')
    no_rows.write_text('{"text": "a bass", "start": 2, "end": 60, "lemma": "bass", "label": "fish"}\n')
    one_sense = write(tmp_path / "one.jsonl", marked("bass", {"fish": BASS["fish"]}))
    unknown = write(tmp_path / "unknown.jsonl", marked("king", {"chess": ["the king is mated"]}))
    for path, words, code in (
        (tmp_path / "none.jsonl", "none.jsonl: cannot be read (No such file or directory)", 2),
        (empty, "empty.jsonl: the file is empty", 4),
        (broken, "broken.jsonl: 2 faulty lines", 4),
        (no_rows, "line 1: start 2, end 60 reach outside the text of 6 characters", 4),
    ):
        for arguments in (("fit", path, "--out", out), ("predict", fitted, path)):
            error = refused(*arguments)
            assert words in error.message and error.exit_code == code and error.hint
    error = refused("fit", one_sense, "--out", out)
    assert error.message.endswith("1 word with one sense\n  bass: 6 rows, all of them 'fish'") and error.exit_code == 4
    error = refused("predict", fitted, unknown)
    assert error.message.endswith("1 unknown lemma\n  'king' in 1 row") and error.exit_code == 4
    assert error.hint == "the senses fitted are of: bass, crane"
    error = refused("fit", good, "--out", fitted)
    assert error.message == f"--out {fitted}: exists already" and error.exit_code == 2
    error = refused("fit", good, "--out", out, "--encoder", str(tmp_path / "no-encoder"))
    assert "cannot be loaded" in error.message and error.exit_code == 2
    error = refused("predict", tmp_path / "nothing", good)
    assert "holds no fitted senses" in error.message and error.exit_code == 2
    assert not out.exists(), "nothing is written before all is checked"
