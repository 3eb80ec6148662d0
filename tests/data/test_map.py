"""`finetune data map`: which rows are on it, how they are coloured, and what it says of input it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from finetune.cli.main import app
from finetune.config import load_config
from finetune.curation.map_page import CUT, Colouring, Points, as_json
from finetune.data.findings import Finding
from finetune.data.losses import read_losses
from finetune.data.map import by_size, clusters_for, map_file, write_page
from finetune.data.map_colours import by_defect, by_loss
from finetune.errors import ConfigError, DataError, FinetuneError

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty", "kiosk", "lemon")


class Letters:
    """An encoder without a model: how often each letter stands in a text."""

    name = "letters"

    def encode(self, texts: list[str]) -> np.ndarray:
        counts = np.array([[text.lower().count(letter) for letter in "abcdefghijklmno"] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Sixty rows, a damaged line (4), an empty answer (9) and a placeholder (12)."""
    lines = [
        json.dumps({"instruction": f"What of {WORDS[n % 12]}?", "output": f"{WORDS[n % 7]} {WORDS[n % 5]} {n}"})
        for n in range(60)
    ]
    lines[4] = '{"instruction": "What", "output": '
    lines[9] = json.dumps({"instruction": "What?", "output": ""})
    lines[12] = json.dumps({"instruction": "What of cedar?", "output": "N/A"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_keep_their_numbers_and_their_defects(file) -> None:
    made = map_file(file, Letters(), method="pca")
    points = made.points
    assert (made.rows, made.placeable, len(points.rows)) == (60, 58, 58)
    assert 4 not in points.rows and 9 not in points.rows
    at = points.rows.index(12)
    assert points.texts[at].endswith("N/A")
    defect = points.colourings[1]
    assert [defect.labels[of] for of in defect.of[at]] == ["placeholder_output"] and made.defects == {
        "placeholder_output": 1
    }
    assert sum(cluster.size for cluster in made.clusters) == 58
    assert [cluster.size for cluster in made.clusters] == sorted((one.size for one in made.clusters), reverse=True)
    assert all(0 <= value <= 1 for value in [*points.x, *points.y])
    assert made.sentences()[0] == "58 of 60 rows; 2 rows without a text to place."
    assert "trustworthiness" in made.sentences()[1] and f"{made.projection.chance:.2f}" in made.sentences()[1]


def test_of_many_rows_a_seeded_sample_is_shown(file) -> None:
    made = map_file(file, Letters(), method="pca", limit=20)
    assert len(made.points.rows) == 20 and made.points.rows == sorted(set(made.points.rows))
    assert made.sentences()[0] == "20 of 60 rows, a seeded sample of 58; 2 rows without a text to place."
    assert made.points.rows == map_file(file, Letters(), method="pca", limit=20).points.rows
    assert made.points.rows != map_file(file, Letters(), method="pca", limit=20, seed=1).points.rows


def test_losses_are_taken_by_row(file, tmp_path) -> None:
    losses = tmp_path / "losses.json"
    losses.write_text(json.dumps([{"row": row, "loss": row / 10} for row in range(20, 40)]))
    points = map_file(file, Letters(), method="pca", losses=losses).points
    assert points.losses[points.rows.index(25)] == 2.5 and points.losses[points.rows.index(1)] is None
    loss = points.colourings[2]
    assert loss.labels[0] == "no loss" and loss.labels[1].startswith("2.000 to") and loss.labels[-1].endswith("3.900")
    assert [loss.of[points.rows.index(row)] for row in (1, 20, 39)] == [[0], [1], [5]]


def test_equal_losses_are_one_range() -> None:
    assert by_loss([0, 1, 2], {0: 1.0, 1: 1.0}).labels == ["no loss", "1.000 to 1.000"]
    assert by_loss([5], {0: 1.0}).labels == ["no loss"]
    assert by_loss([0, 1], {0: 1.0, 1: 2.0}).of == [[1], [5]]


def test_a_row_with_two_defects_is_under_both() -> None:
    found = [Finding(3, "loop", "", None), Finding(3, "refusal", "", None), Finding(5, "refusal", "", None)]
    colouring = by_defect([3, 4, 5], found)
    assert colouring.labels == ["none", "refusal", "loop"] and colouring.of == [[1, 2], [0], [1]]


def test_clusters_are_as_many_as_can_be_told_apart() -> None:
    assert [clusters_for(rows) for rows in (12, 80, 2000, 10**6)] == [2, 2, 10, 12]
    assert by_size(np.array([0, 1, 1, 2, 2, 2])).tolist() == [2, 1, 1, 0, 0, 0]


def test_no_text_ends_the_page_it_is_in() -> None:
    text = "</script><!-- <script> & \u2028" + "x" * CUT
    written = as_json(Points([0], [0.5], [0.5], [text], [None], [Colouring("cluster", ["<b>"], [[0]])]))
    assert not set("<>&") & set(written)
    held = json.loads(written)
    assert held["texts"] == [text[:CUT] + "…"] and held["colourings"][0]["labels"] == ["<b>"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"loss": 1.0}', "line 1: `row` is missing, not a whole number"),
        ('{"row": "3", "loss": 1.0}', "line 1: `row` is text, not a whole number"),
        ('{"row": true, "loss": 1.0}', "line 1: `row` is true or false, not a whole number"),
        ('{"row": 60, "loss": 1.0}', "line 1: row 60, but the data has rows 0 to 59"),
        ('{"row": 3}', "line 1: `loss` is missing, not a number"),
        ('{"row": 3, "loss": null}', "line 1: `loss` is null, not a number"),
        ('{"row": 3, "loss": 1.0}\n{"row": 3, "loss": 2.0}', "line 2: row 3 stands twice"),
    ],
)
def test_a_file_of_losses_that_is_none(tmp_path, line, fault) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        read_losses(path, 60)
    assert caught.value.message == f"{path}: 1 faulty line\n  {fault}"
    assert "rows counted from 0" in caught.value.hint


def test_a_loss_beyond_all_numbers(tmp_path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text('{"row": 3, "loss": 1e999}\n')
    with pytest.raises(DataError) as caught:
        read_losses(path, 60)
    assert caught.value.message == f"{path}: 1 faulty line\n  line 1: 1e999 is beyond the largest number"


def test_losses_of_another_type(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"--losses .*losses\.csv: not a \.jsonl or \.json file"):
        read_losses(tmp_path / "losses.csv", 3)


def test_too_few_texts_for_a_map(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"instruction": "What?", "output": f"It {n % 5}."}) + "\n" for n in range(40)))
    with pytest.raises(DataError) as caught:
        map_file(path, Letters())
    assert (caught.value.message, caught.value.hint) == (f"{path}: 5 different texts", "a map needs 12 and more")


def test_a_page_that_cannot_be_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"--out .*absent/map\.html: cannot be written \(No such file"):
        write_page(tmp_path / "absent" / "map.html", "")
    path = tmp_path / "map.html"
    path.write_text("old")
    write_page(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--color", "loss"], "--color loss: no losses are given"),
        (["--out", "rows.jsonl"], "--out rows.jsonl: not an .html file"),
        (["lora.r=8"], "lora.r=8: {file} is a file of rows, which has no keys"),
        (["--encoder", "model"], "encoder 'model': no language model is named"),
    ],
)
def test_what_the_command_refuses(file, arguments, message) -> None:
    done = CliRunner().invoke(app, ["data", "map", str(file), *arguments])
    assert isinstance(done.exception, FinetuneError) and done.exception.exit_code == 2
    assert done.exception.message == message.format(file=file)


def test_a_configuration_that_names_more_than_one_file(config_file) -> None:
    load_config(config_file, [])
    done = CliRunner().invoke(app, ["data", "map", str(config_file), "data.train=some/name"])
    assert done.exception.message == f"{config_file}: data.train names some/name, which is not one file"


def test_a_configurations_own_model_places_the_rows(config_file, tmp_path) -> None:
    out = tmp_path / "map.html"
    done = CliRunner().invoke(app, ["data", "map", str(config_file), "--encoder", "model", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "12 of 12 rows." in done.stdout and "trustworthiness" in done.stdout
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
