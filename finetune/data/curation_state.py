"""The directory of a curation: its results, and below `.work` what a killed one goes on from."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import ConfigError
from finetune.whole_file import replace_text

CURATED, DROPPED, RECEIPT = "curated.jsonl", "dropped.jsonl", "receipt.json"
WORK = ".work"
ELSEWHERE = "name another directory with --out, or move what it holds"


class State:
    """The working state below `DIR/.work`. Every file is written aside and renamed, so that one that is there is
    whole; the vectors alone grow, and `encoded` says how many of them are."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.work = out / WORK

    @staticmethod
    def begin(out: Path, asked: dict[str, Any]) -> State:
        """Begins a curation in `out`, or goes on with the one that was begun there. `asked` is all that its result
        depends on, as JSON. Raises ConfigError where the directory holds anything else, or another curation."""
        state = State(out)
        _require_own(out)
        begun = state._read("asked.json")
        if begun is None:
            try:
                state.work.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{out}: cannot be made ({error.strerror or error})", "name another --out") from None
            state._lock()
            state._write("asked.json", asked)
            return state
        state._lock()
        if changes := _changes(begun, json.loads(json.dumps(asked))):
            state._held.close()
            raise ConfigError(
                f"{out}: holds an unfinished curation, and since it began {'; '.join(changes)}",
                "repeat its command to finish it, or name another directory with --out",
            )
        return state

    def __enter__(self) -> State:
        return self

    def __exit__(self, *raised: object) -> None:
        """Lets the directory go."""
        self._held.close()

    def _lock(self) -> None:
        """Holds the directory until the curation is left; the processes that it starts do not hold it."""
        self._held = (self.work / "lock").open("w")
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._held.close()
            raise ConfigError(f"{self.out}: another process is at work there", "wait for it, or stop it") from None

    def remember(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, as JSON: made once, and read again by a curation that goes on."""
        found = self._read(f"{name}.json")
        if found is None:
            found = make()
            self._write(f"{name}.json", found)
        return found

    def vectors(self) -> Vectors:
        """Where vectors are kept."""
        return Vectors(self.work)

    def finish(self, receipt: dict[str, Any]) -> None:
        """Moves the results out of `.work`, the receipt last: where it is, the rest is whole."""
        self._write(RECEIPT, receipt)
        for name in (CURATED, DROPPED, RECEIPT):
            (self.work / name).replace(self.out / name)
        shutil.rmtree(self.work)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.work / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def _write(self, name: str, value: dict[str, Any]) -> None:
        replace_text(self.work / name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


class Vectors:
    """Vectors on disk, (N, dimensions) float16, of which the first `done` are written. Reading maps the file only for
    as long as it takes, so that memory does not fill with what was read."""

    def __init__(self, work: Path) -> None:
        self.path = work / "vectors.npy"
        self._encoded = work / "encoded"

    @property
    def done(self) -> int:
        """Vectors that are written."""
        return int(self._encoded.read_text()) if self._encoded.exists() else 0

    @property
    def shape(self) -> tuple[int, int]:
        """(N, dimensions)."""
        return np.load(self.path, mmap_mode="r").shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        found = np.array(np.load(self.path, mmap_mode="r")[index], np.float32)
        length = np.linalg.norm(found, axis=1, keepdims=True)  # rounded to float16, it is no longer one
        return found / np.where(length > 0, length, 1)

    def append(self, block_BD: np.ndarray, count: int) -> None:
        """Writes the next block of `count` vectors in all."""
        done = self.done
        if done == 0:
            shape = (count, block_BD.shape[1])
            np.lib.format.open_memmap(self.path, "w+", np.float16, shape).flush()
        whole = np.load(self.path, mmap_mode="r+")
        whole[done : done + len(block_BD)] = block_BD
        whole.flush()
        replace_text(self._encoded, str(done + len(block_BD)))


def _require_own(out: Path) -> None:
    """Raises ConfigError where the directory holds what no unfinished curation leaves there."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: is a file", "name a directory with --out")
    held = {entry.name for entry in out.iterdir()}
    if RECEIPT in held and WORK in held:
        shutil.rmtree(out / WORK)  # killed while it tidied up
    if RECEIPT in held:
        raise ConfigError(f"{out}: holds a finished curation", ELSEWHERE)
    own = {WORK, CURATED, DROPPED} if WORK in held else set()
    if foreign := sorted(held - own):
        raise ConfigError(f"{out}: holds {foreign[0]}, which is not of a curation", ELSEWHERE)


def _changes(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs, in words: `curation.keep was 5, is 6`."""
    found = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _changes(old, new, f"{prefix}{key}.")
        elif key == "sha256" and old != new:
            found.append(f"{prefix.split('.', 1)[1][:-1]} has changed")
        elif old != new:
            found.append(f"{prefix}{key} was {json.dumps(old)}, is {json.dumps(new)}")
    return found
