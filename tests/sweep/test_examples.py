"""The examples for Slurm and Kubernetes: they lint, and their commands begin a run, go on with it, and give up where
they should. No cluster is needed: scripts that write down their words stand in for `srun`, `scontrol`, `finetune`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from repo import REPO

BATCH = sorted((REPO / "examples" / "slurm").glob("*.sbatch"))
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
MANIFESTS = sorted((REPO / "examples" / "kubernetes").glob("*.yaml"))


def objects(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def job(name: str) -> dict:
    return next(one for one in objects(REPO / "examples" / "kubernetes" / name) if one["kind"] == "Job")


def container(name: str) -> dict:
    (found,) = job(name)["spec"]["template"]["spec"]["containers"]
    return found


@pytest.fixture
def cluster(tmp_path: Path):
    """Runs a command where every program of a cluster writes down how it was called, and finetune ends with a code."""
    calls, place = tmp_path / "calls", tmp_path / "bin"
    place.mkdir()
    scripts = {
        "srun": 'shift; exec "$@"',  # after --kill-on-bad-exit=1
        "scontrol": f'echo scontrol "$@" >>{calls}',
        "finetune": f'echo finetune "$@" >>{calls}; exit "$CODE"',
    }
    for name, body in scripts.items():
        (place / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        (place / name).chmod(0o755)

    def _run(*command: str | Path, code: int = 0, **environment: str) -> tuple[int, list[str]]:
        calls.write_text("", encoding="utf-8")
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, check=False, capture_output=True, text=True,
            env={"PATH": f"{place}:{os.environ['PATH']}", "CODE": str(code), "SLURM_JOB_ID": "7", **environment},
        )  # fmt: skip
        return done.returncode, calls.read_text(encoding="utf-8").splitlines()

    return _run


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.name)
def test_batch_scripts_lint(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run([SHELLCHECK, "--enable=all", "--exclude=SC2250", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = path.read_text(encoding="utf-8")
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert "requeue" in directives
    assert directives["signal"] == "TERM@600", "without B: it goes to the step, which is finetune"
    assert text.index("#SBATCH --signal") < text.index("set -euo pipefail"), "Slurm reads none behind a command"


def test_a_linter_that_finds_nothing_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/usr/bin/env bash\nrm $1\n", encoding="utf-8")
    done = subprocess.run([SHELLCHECK, tmp_path / "bad.sh"], capture_output=True, text=True, check=False)
    assert "SC2086" in done.stdout


def test_a_slurm_run_begins_goes_on_and_is_put_back(cluster, tmp_path: Path) -> None:
    script, config = REPO / "examples" / "slurm" / "train.sbatch", "configs/a b.yaml"
    begins = f"finetune train {config} output_dir=runs/a b"
    assert cluster("bash", script, config) == (0, [begins])
    assert cluster("bash", script, config, code=5) == (0, [begins, "scontrol requeue 7"])
    assert cluster("bash", script, config, code=143) == (0, [begins, "scontrol requeue 7"])
    assert cluster("bash", script, config, code=5, SLURM_RESTART_COUNT="100") == (5, [begins])
    assert cluster("bash", script, config, code=2) == (2, [begins])
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    (tmp_path / "runs" / "a b" / "config.yaml").touch()
    assert cluster("bash", script, config, code=5) == (0, [f"{begins} --resume", "scontrol requeue 7"])
    assert cluster("bash", script, config, FINETUNE="finetune more")[1] == [f"finetune more{begins[8:]} --resume"]
    assert cluster("bash", script)[0] == 1


def test_a_slurm_sweep_is_put_back_too(cluster) -> None:
    script = REPO / "examples" / "slurm" / "sweep.sbatch"
    assert cluster("bash", script, "s.yaml", code=5) == (0, ["finetune sweep s.yaml --resume", "scontrol requeue 7"])
    assert cluster("bash", script, "s.yaml", code=3) == (3, ["finetune sweep s.yaml --resume"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_takes(path: Path) -> None:
    for one in objects(path):
        kubernetes_validate.validate(one, "1.35", strict=True)
    broken = job(path.name)
    broken["spec"]["backofLimit"] = broken["spec"].pop("backoffLimit")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.35", strict=True)


@pytest.mark.parametrize("name", ["train.yaml", "sweep.yaml"])
def test_a_job_runs_as_the_image_s_user_on_its_volumes_and_ends_where_it_should(name: str) -> None:
    image = (REPO / "Dockerfile").read_text(encoding="utf-8")
    spec = job(name)["spec"]
    pod, one = spec["template"]["spec"], container(name)
    user = pod["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in image
    assert user["runAsNonRoot"] and user["fsGroup"] == user["runAsGroup"]
    assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert int(one["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]
    mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
    assert (mounts["runs"], mounts["cache"]) == ("/workspace/runs", "/cache")
    claims = {each["metadata"]["name"] for each in objects(MANIFESTS[1]) if each["kind"] == "PersistentVolumeClaim"}
    used = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume}
    assert used == claims
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 600)
    codes = [rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes == [[2, 3, 4]], "5 is a run that can be resumed"


def test_a_kubernetes_run_begins_and_goes_on(cluster, tmp_path: Path) -> None:
    one = container("train.yaml")
    command = [*one["command"], *one["args"]]
    begins = "finetune train configs/qlora_r16.yaml output_dir=runs/qlora_r16"
    assert cluster(*command) == (0, [begins])
    (tmp_path / "runs" / "qlora_r16").mkdir(parents=True)
    (tmp_path / "runs" / "qlora_r16" / "config.yaml").touch()
    assert cluster(*command, code=5) == (5, [f"{begins} --resume"])
    assert (REPO / "configs" / "qlora_r16.yaml").exists()


def test_a_kubernetes_sweep_is_one_that_ships_and_its_image_can_be_built() -> None:
    command, sweep, *rest = container("sweep.yaml")["args"]
    assert (command, rest) == ("sweep", ["--resume"])
    assert (REPO / sweep).exists()
    build = (REPO / "Dockerfile").read_text(encoding="utf-8")
    code = re.search(r"python -c '(.*?)'", build, re.DOTALL)[1]
    listed, plain = (
        subprocess.run(
            [sys.executable, "-c", code, extras], cwd=REPO, capture_output=True, text=True, check=True
        ).stdout
        for extras in ("ray", "")
    )
    assert any(line.startswith("ray[tune]") for line in listed.splitlines())
    assert listed.startswith(plain)
