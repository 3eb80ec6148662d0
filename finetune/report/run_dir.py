"""The run directory: claimed before anything is loaded, gone again where training never began."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.config import RunConfig, load_config, to_yaml
from finetune.errors import ConfigError, RunDirError, Stopped
from finetune.processes import ALONE, Processes
from finetune.report.lock import LOCK, OWNER, Lock
from finetune.secrets import redact
from finetune.spec import RunSpec
from finetune.whole_file import replace_text

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")


class RunDir:
    """A directory with `config.yaml`, `environment.json`, `preflight.json`, `metrics.jsonl`, `checkpoints/`,
    `adapter/`, `receipt.json` and `report.*`. As a context manager it gives its lock back, and undoes `create` unless
    `keep()` was called. `writes` is off in processes beside the first, which have the same directory."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.lock = Lock(path)
        self._made: list[Path] = []
        self._kept = True

    @classmethod
    def create(cls, spec: RunSpec) -> RunDir:
        """Claims `output_dir` for a new run. Raises RunDirError where it holds something or cannot be written."""
        run = cls(Path(spec.config.output_dir).expanduser())
        try:
            run._claim()
            run.describe(spec)
        except OSError as error:
            run._undo()
            raise RunDirError(
                f"output_dir: {run.path} cannot be written ({error.strerror})", "name a directory that you may write to"
            ) from None
        return run

    def _claim(self) -> None:
        if (self.path / "config.yaml").exists():
            raise RunDirError(
                f"output_dir: {self.path} already holds a run",
                "go on with `--resume`, or name another: output_dir=runs/another-name",
            )
        if self.path.exists() and any(entry.name not in (LOCK, OWNER) for entry in self.path.iterdir()):
            raise RunDirError(f"output_dir: {self.path} is not empty", "name a directory that does not exist yet")
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()
        self._kept = False

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run. Raises RunDirError where `path` is none."""
        path = Path(path).expanduser()
        if not (path / "config.yaml").is_file():
            raise RunDirError(f"{path} is not a run directory: it has no config.yaml", "give the output_dir of a run")
        return cls(path)

    @classmethod
    def take_up(cls, path: str | Path) -> tuple[RunDir, list[str]]:
        """A run to go on with, and notes of what its last process left undone. Raises RunDirError where `path` is none,
        or another process writes there."""
        run = cls.open(path)
        for entry in run.path.iterdir():
            if entry.is_symlink():
                raise RunDirError(
                    f"{entry} is a link, and a run writes into its own directory alone",
                    "put what it points to in its place, or train anew in another output_dir",
                )
        try:
            note = run.lock.acquire()
            for left in (*run.path.glob(".*.tmp"), *run.path.glob(".*.gone"), *run.checkpoints.glob(".*")):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        except OSError as error:
            run.lock.release()
            raise RunDirError(
                f"{run.path} cannot be written ({error.strerror})", "give it back its write permission"
            ) from None
        return run, [note] if note else []

    @property
    def adapter(self) -> Path:
        """Where the trained adapter is, in plain PEFT format."""
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each log."""
        return self.path / "metrics.jsonl"

    @classmethod
    def beside(cls, path: str | Path) -> RunDir:
        """The directory that the first process has claimed, for another. Raises RunDirError where it is not seen."""
        run = cls(Path(path).expanduser(), writes=False)
        if not (run.path / "config.yaml").is_file():
            raise RunDirError(
                f"output_dir: {run.path} of the first process is not seen on {platform.node()}",
                "name a directory that all machines of the run share",
            )
        return run

    def describe(self, spec: RunSpec, processes: Processes = ALONE) -> None:
        """Writes down how the run was asked for, and on what it runs. Raises OSError."""
        self.write_text("config.yaml", to_yaml(spec.config))
        self.write_json("environment.json", environment(spec) | {"processes": processes.count})

    def finished(self) -> dict[str, Any] | None:
        """What report.json holds; None for a run that is not finished."""
        file = self.path / "report.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def config(self) -> RunConfig:
        """The resolved configuration of the run."""
        try:
            return load_config(self.path / "config.yaml")
        except ConfigError as error:
            raise RunDirError(error.message, "the run was made by another version of finetune") from None

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file that appears whole or not at all."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a file that appears whole or not at all, without secrets."""
        if self.writes:
            replace_text(self.path / name, redact(text))

    def keep(self) -> None:
        """Training begins: from here on nothing is removed."""
        self._kept = True

    def _undo(self) -> None:
        """Removes what a run wrote and the directories it made; one that was there before stays, empty."""
        if self._kept:
            self.lock.release()
            return
        self.lock.release()
        for entry in self.path.iterdir() if self.path.is_dir() else ():
            with contextlib.suppress(OSError):  # the disk may be why the run never began
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in self._made:
            with contextlib.suppress(OSError):  # it holds something else by now
                folder.rmdir()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._undo()
        if isinstance(error, OSError) and error.filename and self.path in Path(error.filename).parents:
            reason = f"{error.filename} could not be written or read ({error.strerror})"
            if self._kept:
                raise Stopped(reason, self.path, "see to the disk and its permissions, then ") from None
            raise RunDirError(reason, "see to the disk and its permissions, or name another output_dir") from None


def environment(spec: RunSpec) -> dict[str, Any]:
    """Versions and device, for `environment.json` and the report."""
    return {
        "finetune": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in LIBRARIES},
        "device": spec.device.name,
        "device_memory_bytes": spec.device.memory_bytes,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
