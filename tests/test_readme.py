"""Every command in the README is run, or stands in the list of those that cannot run here with the reason."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from repo import REPO

FINETUNE = Path(sys.executable).with_name("finetune")


def commands() -> list[str]:
    """The lines of the README's shell blocks."""
    text = (REPO / "README.md").read_text(encoding="utf-8")
    shell = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    asked = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return [line for line in shell if line.strip()] + asked


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one line as a user in the repository's folder would, with this environment's finetune."""
    path = f"{FINETUNE.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=REPO, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run that `./scripts/quickstart` leaves, two updates long; the script's own environment is this one."""
    if Path(sys.prefix) != REPO / ".venv":
        pytest.skip("the README's commands use .venv: run scripts/test")
    run_dir = tmp_path_factory.mktemp("readme") / "run"
    few = "data.eval='[{path: data/quickstart/eval.jsonl, weight: 0.1}]' training.sample_max_new_tokens=8"
    done = run(f"./scripts/quickstart training.max_steps=2 output_dir={run_dir} {few}", HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
    yield run_dir
    shutil.rmtree(run_dir)


def test_the_first_two_commands_are_the_two_that_matter() -> None:
    assert commands()[:2] == ["./scripts/quickstart", "./scripts/test"]


def test_no_command_is_new_to_this_test() -> None:
    known = {
        "./scripts/quickstart",
        "./scripts/test",  # runs this test
        "finetune train configs/qlora_r16.yaml",
        "finetune train configs/qlora_r16.yaml data.train=my_rows.jsonl data.max_length=1024 lora.r=32",
        "finetune data preview configs/quickstart.yaml",
        "finetune data check configs/quickstart.yaml --show-mask",
        "finetune data curate configs/quickstart.yaml --out runs/curated",
        "finetune data map data/quickstart/train.jsonl --out runs/map.html",
        "finetune train runs/quickstart/config.yaml --resume",
        "finetune verify runs/quickstart",
        "finetune eval runs/quickstart",
        "finetune eval runs/quickstart --forgetting",
        'finetune chat runs/quickstart --prompt "What does `itertools.chain` do in Python?"',
        "docker build -t finetune .",
        "mkdir -p runs",
        'docker run --gpus all --user "$(id -u):$(id -g)" -v finetune-cache:/cache -v "$PWD/runs:/workspace/runs" '
        "finetune train configs/qlora_r16.yaml",
        "scripts/wheelhouse --out wheelhouse",
        "pip install --no-index --find-links wheelhouse finetune",
        "finetune doctor",
        "finetune preflight configs/qlora_r16.yaml --gpu 'RTX 4090'",
        "finetune preflight configs/qlora_r16.yaml --gpu 24GiB --max seq_len",
        "finetune preflight configs/qlora_r16.yaml --gpu T4 --explain",
        "finetune plan configs/qlora_r16.yaml --gpu 'RTX 4090' --examples 3200",
        "finetune sweep configs/sweeps/qlora_r16.yaml --dry-run --gpu 'RTX 4090'",  # docs/sweep.md has what it prints
        "finetune lab descent",
        "finetune lab batch",
        "finetune lab classic",
        "python scripts/make_comparisons.py",
        "finetune train configs/rloo_format.yaml",
    }
    assert set(commands()) == known


def test_quickstart(quickstart: Path) -> None:
    report = json.loads((quickstart / "report.json").read_text(encoding="utf-8"))
    assert report["train"]["steps"] == 2
    assert report["eval_loss"]["after"] < report["eval_loss"]["before"]
    assert report["model"]["quantization"] == "nf4, double quantised"
    assert len(report["samples"]) == 3


def test_a_finished_run_is_finished_and_good(quickstart: Path) -> None:
    resumed = run(f"finetune train {quickstart}/config.yaml --resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "the run is finished; nothing is left to do" in resumed.stderr
    verified = run(f"finetune verify {quickstart}")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.splitlines()[-1] == "good"


def test_using_the_run(quickstart: Path) -> None:
    report = json.loads((quickstart / "report.json").read_text(encoding="utf-8"))
    evaluated = run(f"finetune eval {quickstart}")
    assert evaluated.returncode == 0, evaluated.stderr
    assert float(evaluated.stdout) == pytest.approx(report["eval_loss"]["after"], rel=1e-3)
    compared = run(f"finetune eval {quickstart} --forgetting")
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.splitlines()[-1] == "kept", "two updates"
    line = next(line for line in commands() if line.startswith("finetune chat"))
    line = line.replace('"', "'").replace("runs/quickstart", str(quickstart)) + " --max-new-tokens 8"
    answered = run(line)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip()


def test_looking_at_the_data(quickstart: Path, tmp_path: Path) -> None:
    shown = run("finetune data preview configs/quickstart.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "<|im_start|>assistant" in shown.stdout
    checked = run("finetune data check configs/quickstart.yaml --show-mask")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "<|im_start|>assistant" in checked.stdout
    curated = run(f"finetune data curate configs/quickstart.yaml --out {tmp_path / 'curated'}")
    assert curated.returncode == 0, curated.stderr
    assert (tmp_path / "curated" / "curated.jsonl").stat().st_size > 0
    mapped = run(f"finetune data map data/quickstart/train.jsonl --out {tmp_path / 'map.html'} --limit 200")
    assert mapped.returncode == 0, mapped.stderr
    assert "trustworthiness" in (tmp_path / "map.html").read_text(encoding="utf-8")


def test_learning_from_a_reward(quickstart: Path, tmp_path: Path) -> None:
    """One update of the README's run; benchmarks/learned.py has the whole."""
    made = run("python scripts/make_comparisons.py")
    assert made.returncode == 0, made.stderr
    short = "training.max_steps=1 training.rehearsal=false rollout.trial_prompts=2 rollout.eval_prompts=4"
    done = run(f"finetune train configs/rloo_format.yaml {short} output_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert 0 <= report["held_out"]["reward"]["before"] <= 1
    assert report["train"]["rows"] == 32


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU this trains a 7B model")
def test_a_7b_plan_without_a_gpu_says_what_it_needs(tmp_path: Path) -> None:
    for line in commands():
        if line.startswith("finetune train configs/qlora"):
            done = run(f"{line} output_dir={tmp_path / 'run'}") if FINETUNE.exists() else pytest.skip("not installed")
            assert done.returncode == 3
            assert "this run needs a CUDA GPU" in done.stderr


def test_preflight_and_doctor() -> None:
    if not FINETUNE.exists():
        pytest.skip("finetune is not installed in this environment")
    assert "fits" in run("finetune preflight configs/qlora_r16.yaml --gpu 'RTX 4090'").stdout
    assert int(run("finetune preflight configs/qlora_r16.yaml --gpu 24GiB --max seq_len").stdout) >= 2048
    assert "b s h" in run("finetune preflight configs/qlora_r16.yaml --gpu T4 --explain").stdout
    assert "200 an epoch" in run("finetune plan configs/qlora_r16.yaml --gpu 'RTX 4090' --examples 3200").stdout
    assert run("finetune doctor").returncode == 0


def test_the_container_s_arguments_are_finetune_s() -> None:
    """No Docker engine is needed: scripts/check-image builds and runs the image; here the line itself is checked."""
    line = next(line for line in commands() if line.startswith("docker run"))
    words = shlex.split(line)
    image = words.index("finetune")
    volumes = {words[i + 1].split(":")[1] for i, word in enumerate(words) if word == "-v"}
    dockerfile = (REPO / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["finetune"]' in dockerfile
    assert all(volume.split("/")[1] in {"cache", "workspace"} for volume in volumes)
    assert words[image + 1 :] == ["train", "configs/qlora_r16.yaml"]


def test_wheelhouse_knows_its_flags() -> None:
    """The whole download is scripts/check-image's and a person's business; the line must at least be understood."""
    done = run("scripts/wheelhouse --out wheelhouse --dry-run --cuda cpu", HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
