"""sweep.json and the pages beside it: the order of trials, what has a column, what a resume takes up and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.errors import ConfigError, RunDirError
from finetune.sweep.record import Record, Trial
from finetune.sweep.table import plot, remarks, table, write_pages

SETTINGS = {"config": "run.yaml", "seed": 42, "output_dir": "out"}
CONFIG = {"lora": {"r": 8}, "output_dir": "runs/x"}


def record(path: Path, *trials: Trial, largest: bool = False) -> Record:
    return Record(path, dict(SETTINGS), json.loads(json.dumps(CONFIG)), "eval_loss", largest, list(trials))


def trial(name: str, metric: float | None = None, status: str = "finished", **more) -> Trial:
    return Trial(name, {"lora.r": int(name[-1]), "lora.alpha": 16}, status, metric=metric, **more)


@pytest.mark.parametrize(("largest", "best"), [(False, ["t2", "t1"]), (True, ["t1", "t2"])])
def test_the_best_come_first_then_what_did_not_finish(tmp_path, largest: bool, best: list[str]) -> None:
    made = record(
        tmp_path, trial("t5", status="does not fit"), trial("t4", 0.1, "stopped early"), trial("t1", 3.0),
        trial("t3", status="failed"), trial("t2", 2.0), trial("t6"), largest=largest,
    )  # fmt: skip
    assert [one.name for one in made.ranked()] == [*best, "t6", "t4", "t3", "t5"]
    assert made.to_json()["best"] == ("largest" if largest else "smallest")


def test_a_column_for_what_differs_and_is_known(tmp_path) -> None:
    priced = record(
        tmp_path, trial("t1", status="waiting", predicted_bytes=2**30), trial("t2", status="does not fit")
    )  # fmt: skip
    assert table(priced).columns == ["trial", "r", "GiB", "status"]
    assert list(table(priced).rows) == [("t1", "1", "1.00", "fits"), ("t2", "2", None, "does not fit")]
    run = record(tmp_path, trial("t1", 2.5, seconds=1234.56), trial("t2", status="waiting"))
    assert table(run).columns == ["trial", "r", "loss", "GiB", "seconds", "status"]
    first, second = table(run).rows
    assert first == ("t1", "1", 2.5, None, "1,234.6", "finished")
    assert second[-1] == "waiting"
    clash = record(tmp_path, *(Trial(f"t{n}", {"lora.seed": n, "training.seed": n}) for n in (1, 2)))
    assert table(clash).columns[1:3] == ["lora.seed", "training.seed"]


def test_one_reason_is_said_once(tmp_path) -> None:
    why = {"status": "does not fit", "reason": "it needs 3 GiB", "advice": ["take less", "or more"]}
    made = record(tmp_path, trial("t1", **why), trial("t2", **why), trial("t3", status="failed", reason="no loss"))
    assert list(remarks(made)) == ["t3: failed, no loss", "t1, t2: does not fit, it needs 3 GiB; take less"]


def test_pages_and_picture(tmp_path) -> None:
    from matplotlib.figure import Figure

    made = record(tmp_path, trial("t1", 3.0), trial("t2", 2.0), trial("t3", 2.5, "stopped early"))
    assert [path.name for path in write_pages(made)] == ["sweep.md", "sweep.png"]
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    figure = Figure()
    plot(made).draw(figure)
    (panel,) = figure.axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("lora.r", "held-out loss")
    finished, early, best = (points.get_offsets().tolist() for points in panel.collections)
    assert (sorted(finished), early, best) == ([[1, 3.0], [2, 2.0]], [[3, 2.5]], [[2, 2.0]])
    assert list(panel.get_xticks()) == [1, 2, 3]


def test_a_resume_takes_up_what_was_written(tmp_path) -> None:
    before = record(tmp_path, trial("t1", 3.0), trial("t2", status="failed", reason="x"))
    assert not before.take_up(), "nothing is there yet"
    before.save()
    after = record(tmp_path, trial("t1", status="waiting"), trial("t2", status="waiting"))
    assert after.take_up()
    assert after.trials == before.trials
    assert [one.name for one in after.left()] == ["t2"]


def test_a_resume_of_another_sweep_names_what_is_other(tmp_path) -> None:
    record(tmp_path, trial("t1")).save()
    moved = record(tmp_path, trial("t1"))
    moved.settings["config"] = "elsewhere.yaml"
    assert moved.take_up(), "where the configuration lies does not matter"
    other = record(tmp_path, trial("t1"))
    other.settings["seed"], other.config["lora"]["r"] = 7, 9
    with pytest.raises(ConfigError, match=r"holds a sweep of other settings: seed, lora\.r\n"):
        other.take_up()
    drawn = record(tmp_path, replace(trial("t1"), values={"lora.r": 3}))
    with pytest.raises(ConfigError, match="what Ray draws from the seed, in another version of it"):
        drawn.take_up()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"trials": [{"name": "t1"}]}', '{"trials": 3}'])
def test_a_damaged_record_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunDirError, match=r"sweep\.json cannot be read"):
        record(tmp_path, trial("t1")).take_up()


def test_no_token_is_written(tmp_path) -> None:
    made = record(tmp_path, trial("t1"))
    made.config["model"] = {"name_or_path": "hf_" + "a" * 34}
    made.save()
    assert "a" * 34 not in (tmp_path / "sweep.json").read_text(encoding="utf-8")
    again = record(tmp_path, trial("t1"))
    again.config["model"] = {"name_or_path": "hf_" + "a" * 34}
    assert again.take_up()
