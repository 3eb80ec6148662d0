"""Faults of the disk at every kind of write, and damage to checkpoints: the run goes on, or stops in words and can.

python benchmarks/faults.py [--every N] [--json FILE] tries each fault at each kind of operation of a short run, then
resumes without it: the adapter must be that of a run left alone, and no checkpoint that was good may be gone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from attempts import Outcome, Runs, good_checkpoints, warm_up, went_on_from
from environment import environment
from faulty_disk import FAULTS, FaultyDisk

LASTING = ("input/output error", "permission lost")
"""Faults that are tried twice: once at a time, and from there on for good. A disk that stays full is waited for."""

SCENARIO = "short"


class Trials:
    """Runs with one fault each; `counts` by operation, fault and how the run took it, `faults` what must not be."""

    def __init__(self, folder: Path) -> None:
        self.runs = Runs(folder, SCENARIO)
        self.log = self.runs.operations()
        outcome = self.runs.attempt("alone", resume=False)
        if outcome.code:
            raise SystemExit(outcome.said)
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.faults: list[str] = []

    def places(self) -> dict[str, int]:
        """One operation of each kind, as late in the run as there is one: then there is something to lose."""
        kinds = {_kind(operation): number for number, operation in enumerate(self.log, start=1)}
        middle = len(self.log) * 2 // 3
        return {kind: self._near(kind, middle) or last for kind, last in kinds.items()}

    def _near(self, kind: str, number: int) -> int | None:
        found = (at for at, operation in enumerate(self.log, start=1) if at >= number and _kind(operation) == kind)
        return next(found, None)

    def break_disk(self, kind: str, at: int, fault: str, times: int) -> None:
        """One run with a fault at operation `at`, and its end without one."""
        name = "faulty"
        path = self.runs.folder / name
        shutil.rmtree(path, ignore_errors=True)
        outcome = self.runs.attempt(name, resume=False, disk=FaultyDisk(path, fault, at, times))
        label = f"{fault}, for good" if times > 1 else fault
        place = f"{label} at operation {at}, {kind}"
        self.counts[kind.split()[0], label, self._how(outcome, place)] += 1
        if max(good_checkpoints(path), default=0) < self._safe(at) and outcome.code:
            self.faults.append(f"{place}: checkpoint-{self._safe(at)} was good and is gone")
        if outcome.code:
            self._finish(name, place)
        self._compare(name, place)

    def damage(self, file: str, how: str) -> None:
        """A checkpoint that is damaged while nothing runs."""
        name = "damaged"
        path = self.runs.folder / name
        shutil.rmtree(path, ignore_errors=True)
        at = next(n for n, operation in enumerate(self.log, start=1) if operation == "rename checkpoints/checkpoint-4")
        self.runs.attempt(name, resume=False, disk=FaultyDisk(path, "killed", at))
        newest = max(good_checkpoints(path))
        _damage(path / "checkpoints" / f"checkpoint-{newest}" / file, how)
        outcome = self._finish(name, f"{file} {how}")
        if went_on_from(outcome.said) != newest - 1 or "is damaged or not written to its end" not in outcome.said:
            self.faults.append(f"{file} {how}: it did not go on from checkpoint-{newest - 1}, saying so")
        self.counts["checkpoint", how, "went on from the one before"] += 1
        self._compare(name, f"{file} {how}")

    def _how(self, outcome: Outcome, place: str) -> str:
        if outcome.code == 0:
            return "went on"
        if outcome.code == -signal.SIGKILL:
            return "killed, then resumed"
        if outcome.code in (2, 3, 5) and re.search(r"^error: .+\nhint: .+", outcome.said, re.MULTILINE):
            return "stopped in words, then resumed"
        self.faults.append(f"{place}: ended with {outcome.code}: {outcome.said[-1500:]}")
        return "ended badly"

    def _finish(self, name: str, place: str) -> Outcome:
        outcome = self.runs.attempt(name, resume=(self.runs.folder / name / "config.yaml").exists())
        if outcome.code:
            self.faults.append(f"{place}: could not be resumed: {outcome.said[-1500:]}")
        return outcome

    def _safe(self, at: int) -> int:
        """The newest checkpoint that the disk had been told to keep before operation `at`."""
        renamed = safe = 0
        for operation in self.log[: at - 1]:
            found = re.fullmatch(r"rename checkpoints/checkpoint-(\d+)", operation)
            renamed = int(found[1]) if found else renamed
            safe = renamed if operation == "fsync checkpoints" else safe
        return safe

    def _compare(self, name: str, place: str) -> None:
        adapter = self.runs.folder / name / "adapter" / "adapter_model.safetensors"
        if not adapter.exists() or adapter.read_bytes() != self.runs.adapter("alone"):
            self.faults.append(f"{place}: the adapter is not that of the run left alone")
        elif self.runs.curve(name) != self.runs.curve("alone"):
            self.faults.append(f"{place}: metrics.jsonl is not that of the run left alone")


def _kind(operation: str) -> str:
    """An operation without the numbers of one run."""
    return re.sub(r"checkpoint-\d+", "checkpoint", operation)


def _damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        flipped = bytes([data[len(data) // 2] ^ 16])
        changed = {
            "emptied": b"",
            "truncated": data[: len(data) // 2],
            "one bit flipped": data[: len(data) // 2] + flipped + data[len(data) // 2 + 1 :],
        }
        file.write_bytes(changed[how])


FILES = ("adapter_model.safetensors", "training_state.safetensors", "training_state.json", "manifest.json")
DAMAGES = ("removed", "emptied", "truncated", "one bit flipped")


def try_all(folder: Path, every: int) -> Trials:
    """Each fault at every `every`-th kind of operation, and each damage to every file."""
    trials = Trials(folder)
    cases = [(kind, at, fault, 1) for kind, at in trials.places().items() for fault in FAULTS]
    cases += [(kind, at, fault, 10**9) for kind, at in trials.places().items() for fault in LASTING]
    for kind, at, fault, times in cases[::every]:
        trials.break_disk(kind, at, fault, times)
    for number, (file, how) in enumerate((file, how) for file in FILES for how in DAMAGES):
        if number % every == 0:
            trials.damage(file, how)
    return trials


def main() -> int:
    """Tries them, prints the counts; 1 where anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="try one case in so many")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    asked = parser.parse_args()
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        trials = try_all(Path(folder), asked.every)
    rows = [{"what": w, "fault": f, "outcome": o, "cases": n} for (w, f, o), n in sorted(trials.counts.items())]
    for row in rows:
        print(f"{row['what']:10}  {row['fault']:30}  {row['outcome']:32}  {row['cases']}")
    for fault in trials.faults:
        print(f"FAULT {fault}", file=sys.stderr)
    if asked.json:
        result = {"environment": environment(), "operations": len(trials.log), "rows": rows, "faults": trials.faults}
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(bool(trials.faults))


if __name__ == "__main__":
    sys.exit(main())
