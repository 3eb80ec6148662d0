"""Kills training at random moments, inside saves too, and resumes it: the adapter must be that of a run left alone.

scripts/chaos [--kills N] [--seed N] [--scenario NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from attempts import SCENARIOS, Outcome, Runs, good_checkpoints, warm_up, went_on_from
from environment import environment
from faulty_disk import FaultyDisk

IN_SAVES = 0.5
"""Share of the kills that come at a random operation on the disk; the others come at a random moment of the run."""

KILLS_A_RUN = 12
"""Kills after which a run is left to end."""


@dataclass
class Tally:
    """What was seen of one scenario. `equal` runs have the adapter and the metrics of the run left alone, to the bit;
    `on_disk` kills came inside an operation on the disk; `from_checkpoint` resumes found one to go on from."""

    scenario: str
    kills: int = 0
    on_disk: int = 0
    runs: int = 0
    equal: int = 0
    from_checkpoint: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class Tormentor:
    """Runs of one scenario, killed and resumed."""

    def __init__(self, scenario: str, seed: int, folder: Path) -> None:
        self.runs, self.rng, self.tally = Runs(folder / scenario, scenario), random.Random(seed), Tally(scenario)
        self.operations = len(self.runs.operations())
        alone = self.runs.attempt("alone", resume=False)
        if alone.code:
            raise SystemExit(f"the run left alone ended with {alone.code}:\n{alone.said}")
        self.seconds = alone.seconds

    def torment(self, kills: int) -> Tally:
        """Kills until `kills` have come; every run is brought to its end."""
        began = time.monotonic()
        while self.tally.kills < kills:
            self._one_run(f"run-{self.tally.runs}", min(KILLS_A_RUN, kills - self.tally.kills))
            self.tally.runs += 1
        self.tally.seconds = round(time.monotonic() - began, 1)
        return self.tally

    def _one_run(self, name: str, kills: int) -> None:
        path = self.runs.folder / name
        outcome = None
        while outcome is None or outcome.code == -signal.SIGKILL:
            resume, good = (path / "config.yaml").exists(), good_checkpoints(path)
            outcome = self._killed(name, resume) if kills > 0 else self.runs.attempt(name, resume=resume)
            self._look(name, outcome, resume, good)
            kills -= outcome.code == -signal.SIGKILL
        if outcome.code:
            self.tally.faults.append(f"{name} ended with {outcome.code}: {outcome.said[-1000:]}")
        elif self.runs.adapter(name) != self.runs.adapter("alone") or self.runs.curve(name) != self.runs.curve("alone"):
            self.tally.faults.append(f"{name} is not the run left alone")
        else:
            self.tally.equal += 1

    def _killed(self, name: str, resume: bool) -> Outcome:
        """An attempt that is killed, if it does not end before."""
        if self.rng.random() < IN_SAVES:
            at = self.rng.randint(1, self.operations)
            disk = FaultyDisk(self.runs.folder / name, at=at)
            outcome = self.runs.attempt(name, resume=resume, disk=disk)
            self.tally.on_disk += outcome.code == -signal.SIGKILL
        else:
            outcome = self.runs.attempt(name, resume=resume, kill_after=self.rng.uniform(0, self.seconds))
        self.tally.kills += outcome.code == -signal.SIGKILL
        return outcome

    def _look(self, name: str, outcome: Outcome, resume: bool, good: set[int]) -> None:
        """Whether a resumed process went on from the newest checkpoint that was good, and from no other."""
        start = went_on_from(outcome.said) if resume else None
        if start is None:  # a new run, or killed before it said so
            return
        self.tally.from_checkpoint += bool(start)
        if start != max(good, default=0):
            self.tally.faults.append(f"{name} went on from {start}, where {sorted(good)} were good")


def _write(file: Path, seed: int, tallies: list[Tally]) -> None:
    """The tallies so far, beside those of other scenarios in the file."""
    known = json.loads(file.read_text(encoding="utf-8"))["scenarios"] if file.exists() else []
    found = {one["scenario"]: one for one in known} | {one.scenario: asdict(one) for one in tallies}
    result = {"environment": environment(), "seed": seed, "scenarios": list(found.values())}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Torments every scenario, and prints what was seen; 1 where anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills of each scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="of these alone; may be repeated")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    asked = parser.parse_args()
    warm_up()
    tallies = []
    for scenario in asked.scenario or [name for name in SCENARIOS if name != "short"]:
        with tempfile.TemporaryDirectory() as folder:
            tally = Tormentor(scenario, asked.seed, Path(folder)).torment(asked.kills)
        tallies.append(tally)
        print(
            f"{scenario}: {tally.kills} kills, {tally.on_disk} of them inside an operation on the disk; {tally.equal} "
            f"of {tally.runs} runs equal to the one left alone; {tally.from_checkpoint} resumed from a checkpoint; "
            f"{tally.seconds:.0f} s",
            flush=True,
        )
        for fault in tally.faults:
            print(f"  FAULT {fault}", file=sys.stderr)
        if asked.json:
            _write(asked.json, asked.seed, tallies)
    return int(any(tally.faults or tally.equal != tally.runs for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
