"""A sweep from its file to its table: what does not fit is left out, the rest is run, killed, resumed and compared.

One Ray serves all tests of this file. Where only the course of trials matters, a script that writes what a run writes
stands in for `finetune train`; the kill is of the real thing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from repo import REPO
from rich.console import Console
from safetensors.torch import load_file

from finetune import cli, pipeline, sweeping
from finetune.config import load_config
from finetune.errors import ConfigError, DoesNotFit, FinetuneError, RunDirError, Stopped
from finetune.sweep import jobs, tuning
from finetune.sweep.outcome import conclude
from finetune.sweep.record import Record

torch.set_num_threads(1)  # the models are tiny: on a busy machine threads would only wait for each other

ROOM = "hardware.memory=2.5GiB"
"""Of it 2.29 GiB go to torch and its libraries: a micro batch of 2 fits, of 512 does not."""

FAKE = """
import json, os, signal, sys, time
values = dict(item.split("=", 1) for item in sys.argv[2:] if "=" in item)
run, rate = json.loads(values["output_dir"]), float(values["training.learning_rate"])
print("begins", "resumed" if "--resume" in sys.argv else "anew")
if rate == 9:
    print("error: the loss at step 1 is no number")
    print("hint: lower it")
    sys.exit(4)
os.makedirs(run, exist_ok=True)
open(run + "/config.yaml", "w").close()
if rate in (7, 8):
    print("card", os.environ.get("CUDA_VISIBLE_DEVICES"))
    end = time.time() + 60
    while not (os.path.exists(run[:-1] + "1") and os.path.exists(run[:-1] + "2")) and time.time() < end:
        time.sleep(0.05)
def stop(*_):
    print("error: stopped at step 2 of 8 (SIGTERM); the last checkpoint is checkpoint-2")
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
lines = open(run + "/metrics.jsonl", "w", buffering=1)
for step in (0, 2, 4, 6, 8):
    loss = 5 - step * rate
    print(json.dumps({"step": step, "eval_loss": loss}), file=lines)
    print(json.dumps({"step": step + 1, "loss": loss, "seconds": 0.5 * step}), file=lines)
    if step == 4 and (rate == 0.001 or rate == 0.4 and "--resume" not in sys.argv):
        time.sleep(60)
report = {"held_out": {"loss": {"before": 5, "after": loss}}, "train": {"steps": 8, "seconds": 4.0}}
json.dump(report, open(run + "/report.json", "w"))
"""


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """A Ray that the tests of this file share; each sweep of a user's starts its own."""
    os.environ.update(tuning.QUIET)
    plan = tuning.Plan(concurrent=2, cards=2, metric="", largest=False, grace=None)
    with tuning._folder() as folder, tuning._ray(plan, folder):
        yield


@pytest.fixture
def shared_ray(one_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_ray", lambda plan, folder: contextlib.nullcontext())


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are this script's."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(jobs, "PROGRAM", [sys.executable, str(script)])


@pytest.fixture
def write(tmp_path: Path, config_file: Path) -> Callable[..., Path]:
    """Writes the file of a sweep of the tiny configuration with these keys beside `config` and `output_dir`."""

    def _write(search: dict, **more: object) -> Path:
        keys = {"config": str(config_file), "search": search, "output_dir": str(tmp_path / "out"), **more}
        path = tmp_path / "sweep.yaml"
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items()), encoding="utf-8")
        return path

    return _write


def change(config_file: Path, *overrides: str) -> None:
    """Sets keys of the configuration itself."""
    from finetune.config import to_yaml

    config_file.write_text(to_yaml(load_config(config_file, overrides)), encoding="utf-8")


def statuses(record: Record) -> dict[str, str]:
    return {trial.name: trial.status for trial in record.trials}


def training(out: Path) -> list[int]:
    """Processes that train into a sweep."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{out}/trial-".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


# ---- before anything runs


def test_what_does_not_fit_is_left_out_with_what_would(config_file, write, tmp_path, monkeypatch, capsys) -> None:
    change(config_file, ROOM)
    path = write({"training.learning_rate": [0.01, 0.03], "training.micro_batch_size": [2, 512]})
    asked = []
    look = sweeping.look_ahead
    monkeypatch.setattr(sweeping, "look_ahead", lambda config, gpu: asked.append(config) or look(config, gpu))
    monkeypatch.setattr(sys, "argv", ["finetune", "sweep", str(path), "--dry-run", "--json"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    printed = json.loads(capsys.readouterr().out)
    assert not done.value.code
    assert len(asked) == 2, "trials that differ in the learning rate are priced once"
    found = {trial["name"]: trial for trial in printed["trials"]}
    fits = {name for name, trial in found.items() if trial["values"]["training.micro_batch_size"] == 2}
    assert {name for name, trial in found.items() if trial["status"] == "waiting"} == fits
    for name in set(found) - fits:
        trial = found[name]
        assert trial["status"] == "does not fit"
        assert trial["predicted_bytes"] > trial["device_bytes"] == int(2.5 * 2**30)
        assert trial["reason"].startswith("this run needs 2.")
        assert "would fit" in trial["advice"][0]
    assert not (tmp_path / "out").exists()


def test_a_preflight_says_the_same_of_a_trial(config_file, write) -> None:
    """What is priced once for several trials is what each would be priced at."""
    config = load_config(config_file)
    other = load_config(config_file, ["training.learning_rate=1", "training.seed=1", "lora.alpha=99",
        "training.weight_decay=0.5", "training.warmup_ratio=0.5", "training.lr_scheduler=linear",
        "training.max_grad_norm=9.0"])  # fmt: skip
    assert sweeping.price_key(config) == sweeping.price_key(other)
    one, two = (pipeline.look_ahead(each).to_json() for each in (config, other))
    for verdict in (one, two):
        assert verdict.pop("time")["updates"] == 2  # seconds by the speed of this machine, measured anew each time
        for need in verdict["disk"]["needs"]:
            need.pop("free_bytes")  # of a disk that others write to
    assert one == two
    assert sweeping.price_key(config) != sweeping.price_key(load_config(config_file, ["lora.r=5"]))


def test_where_none_fits_nothing_is_run(config_file, write, tmp_path, monkeypatch, capsys) -> None:
    change(config_file, "hardware.memory=1GiB")
    path = write({"training.learning_rate": [0.01, 0.03]})
    monkeypatch.setattr(sys, "argv", ["finetune", "sweep", str(path)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = capsys.readouterr()
    assert done.value.code == 3
    assert "none of the 2 trials fits; trial-1: this run needs 2.3 GiB" in said.err
    assert said.out.count("does not fit") == 3, "two rows and their reason"
    page = (tmp_path / "out" / "sweep.md").read_text(encoding="utf-8")
    assert "trial-1, trial-2: does not fit, this run needs 2.3 GiB" in page


@pytest.mark.parametrize(
    ("search", "more", "error", "words"),
    [
        ({"lora.r": [4, -1]}, {}, ConfigError, "lora.r: input should be greater than 0; found -1"),
        ({"lora.rr": [4]}, {}, ConfigError, "lora.rr: unknown key"),
        ({"lora.r": [4]}, {"config": "none.yaml"}, ConfigError, "none.yaml: no such file"),
        ({"lora.r": [4]}, {"metric": "eval_reward"}, ConfigError, "trial-1 (lora.r=4): sft has no eval_reward"),
        ({"data.eval": [None]}, {}, ConfigError, "trial-1 (data.eval=null): no rows are held out"),
        ({"lora.r": [4]}, {"early_stopping": "asha", "grace_steps": 2}, ConfigError, "training.eval_steps is null"),
        ({"lora.r": [4]}, {"concurrent": 10_000}, DoesNotFit, "concurrent: 10000 trials at once need 6"),
        ({"lora.r": list(range(1, 10)), "hardware.device": ["cuda"]}, {}, DoesNotFit, "this run needs a CUDA GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the last ones are about a machine without a card")
def test_what_is_wrong_is_said_and_nothing_left_behind(write, tmp_path, search, more, error, words) -> None:
    if "concurrent" in more:
        search = {"training.seed": list(range(300))}
    with pytest.raises(error) as refused:
        sweeping.sweep(write(search, **more), say=lambda *_: None)
    assert words in refused.value.message
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_all_together_must_fit_the_disk(write, tmp_path, monkeypatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr("finetune.preflight.disk.shutil.disk_usage", lambda path: usage._replace(free=200 * 2**20))
    with pytest.raises(DoesNotFit, match=r"9 trials write 0\.\d\d GiB to .*, but 0\.20 GiB are free"):
        sweeping.sweep(write({"training.seed": list(range(9))}), say=lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_gpu_is_for_a_dry_run(write, config_file) -> None:
    with pytest.raises(ConfigError, match="--gpu T4: trials run on the cards of this machine"):
        sweeping.sweep(write({"lora.r": [4]}), gpu="T4")
    record = sweeping.sweep(write({"lora.r": [4]}), gpu="T4", dry_run=True, say=lambda *_: None)
    assert record.trials[0].device_bytes > 14 * 2**30


def test_a_directory_with_something_else_in_it_is_refused(write, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    for resume in (False, True):
        with pytest.raises(RunDirError, match="is not empty"):
            sweeping.sweep(write({"lora.r": [4]}), resume=resume)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


# ---- the course of trials


@pytest.mark.usefixtures("shared_ray", "fake")
def test_early_stopping_failures_a_stop_and_what_is_left(config_file, write, tmp_path) -> None:
    change(config_file, "training.eval_steps=2")
    rates = {"trial-1": 0.2, "trial-2": 0.001, "trial-3": 9, "trial-4": 0.4, "trial-5": 0.3}
    path = write({"training.learning_rate": list(rates.values())},
        early_stopping="asha", grace_steps=2, concurrent=1)  # fmt: skip
    out, said = tmp_path / "out", []

    def stop_in_the_fourth() -> None:
        wait_for(lambda: (out / "trial-4" / "metrics.jsonl").exists(), 60)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_in_the_fourth)
    watcher.start()
    before = signal.getsignal(signal.SIGTERM)
    record = sweeping.sweep(path, say=lambda *notes: said.extend(notes))
    watcher.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert statuses(record) == {
        "trial-1": "finished", "trial-2": "stopped early", "trial-3": "failed", "trial-4": "stopped",
        "trial-5": "waiting",
    }  # fmt: skip
    named = {trial.name: trial for trial in record.trials}
    assert named["trial-1"].metric == pytest.approx(5 - 8 * 0.2)
    assert (named["trial-1"].steps, named["trial-1"].seconds) == (8, 4.0)
    assert named["trial-2"].metric == pytest.approx(5 - 4 * 0.001)
    assert "was behind others" in named["trial-2"].reason
    assert named["trial-3"].reason == "the loss at step 1 is no number"
    assert named["trial-4"].reason.startswith("stopped at step 2 of 8 (SIGTERM)")
    assert any(note.startswith("SIGTERM: the trials finish their update") for note in said)
    assert training(out) == []
    with pytest.raises(Stopped, match="stopped with 2 of 5 trials left") as stopped:
        conclude(record, path)
    assert stopped.value.hint == f"go on with `finetune sweep {path} --resume`"
    assert stopped.value.exit_code == 5
    with pytest.raises(RunDirError, match="already holds a sweep"):
        sweeping.sweep(path)
    with pytest.raises(ConfigError, match="holds a sweep of other settings: seed"):
        sweeping.sweep(write(
            {"training.learning_rate": list(rates.values())}, early_stopping="asha", grace_steps=2, concurrent=1, seed=7
        ), resume=True)  # fmt: skip

    path = write({"training.learning_rate": list(rates.values())},
        early_stopping="asha", grace_steps=2, concurrent=1)  # fmt: skip
    log = (out / "trial-1.log").stat().st_mtime_ns
    record = sweeping.sweep(path, resume=True, say=lambda *_: None)
    assert statuses(record) == {
        "trial-1": "finished", "trial-2": "stopped early", "trial-3": "failed", "trial-4": "finished",
        "trial-5": "finished",
    }  # fmt: skip
    assert (out / "trial-1.log").stat().st_mtime_ns == log, "what is finished is not run again"
    assert (out / "trial-4.log").read_text(encoding="utf-8") == "begins resumed\n"
    assert (out / "trial-5.log").read_text(encoding="utf-8") == "begins anew\n"
    conclude(record, path)
    assert [trial.name for trial in record.ranked()] == ["trial-4", "trial-5", "trial-1", "trial-2", "trial-3"]
    page = (out / "sweep.md").read_text(encoding="utf-8")
    assert "| trial-4 | 0.4 | 1.8 |" in page
    assert "- trial-3: failed, the loss at step 1 is no number" in page
    assert (out / "sweep.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("shared_ray", "fake")
def test_trials_at_once_have_a_card_each(write, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sweeping.torch.cuda, "device_count", lambda: 2)  # Ray is told of as many, and looks at none
    with pytest.raises(ConfigError, match="concurrent: 3, but this machine has 2 cards and each trial takes one"):
        sweeping.sweep(write({"training.learning_rate": [7, 8]}, concurrent=3), say=lambda *_: None)
    record = sweeping.sweep(write({"training.learning_rate": [7, 8]}), say=lambda *_: None)
    assert set(statuses(record).values()) == {"finished"}
    cards = [(tmp_path / "out" / f"trial-{n}.log").read_text(encoding="utf-8").splitlines()[1] for n in (1, 2)]
    assert sorted(cards) == ["card 0", "card 1"]


@pytest.mark.usefixtures("shared_ray", "fake")
def test_where_all_fail_the_first_says_why(write, tmp_path) -> None:
    path = write({"training.learning_rate": [9]})
    record = sweeping.sweep(path, say=lambda *_: None)
    with pytest.raises(FinetuneError, match="every trial failed; trial-1: the loss at step 1 is no number") as error:
        conclude(record, path)
    assert error.value.hint == f"read {tmp_path / 'out' / 'trial-1.log'}"
    assert not (tmp_path / "out" / "sweep.png").exists()


def _kill_in_the_middle(path: Path, out: Path, environment: dict[str, str]) -> None:
    """Kills the head of a sweep after its first trial, in its second."""
    with (out.parent / "head.log").open("w") as log:
        head = subprocess.Popen(
            [sys.executable, "-m", "finetune", "sweep", str(path)], stdout=log, stderr=log, env=environment
        )
    metrics = out / "trial-2" / "metrics.jsonl"

    def in_the_middle() -> bool:
        assert head.poll() is None, (out.parent / "head.log").read_text(encoding="utf-8")
        return (out / "trial-1" / "report.json").exists() and metrics.exists() and metrics.read_text().count("\n") > 5

    wait_for(in_the_middle, 120)
    assert len(training(out)) >= 1
    for process in training(out):
        os.kill(process, signal.SIGSTOP)  # its end must not come before the kill; to be killed it need not run
    head.send_signal(signal.SIGKILL)
    head.wait()
    wait_for(lambda: training(out) == [], 30)
    assert not (out / "trial-2" / "report.json").exists(), "it was killed in the middle of a trial"


@pytest.mark.usefixtures("shared_ray")
def test_eight_trials_whose_head_is_killed_end_as_if_it_had_not_been(config_file, write, tmp_path) -> None:
    change(config_file, ROOM, "training.save_steps=1", "training.rehearsal=false")
    search = {"training.max_steps": [3, 50], "training.micro_batch_size": [2, 512, 1024, 2048]}
    path, out = write(search, concurrent=2), tmp_path / "out"
    # The folder of a Ray that is killed stays; tmp_path's name is too long for it.
    with tempfile.TemporaryDirectory(prefix="ft-", dir="/tmp") as folder:
        _kill_in_the_middle(path, out, {**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": folder})
    finished = (out / "trial-1" / "report.json").stat().st_mtime_ns
    record = sweeping.sweep(path, resume=True, say=lambda *_: None)
    conclude(record, path)
    fits = {"trial-1": "finished", "trial-2": "finished"}
    assert statuses(record) == fits | dict.fromkeys([f"trial-{n}" for n in range(3, 9)], "does not fit")
    assert (out / "trial-1" / "report.json").stat().st_mtime_ns == finished
    assert "the run goes on from checkpoint-" in (out / "trial-2.log").read_text(encoding="utf-8")
    for trial, steps in zip(record.trials, (3, 50), strict=False):
        alone = tmp_path / f"alone-{steps}"
        config = load_config(config_file, [f"training.max_steps={steps}", f"output_dir={alone}"])
        report = pipeline.train(config, Console(file=(tmp_path / "alone.log").open("w")))
        assert trial.metric == report["eval_loss"]["after"]
        one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (alone, out / trial.name))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
