"""sweep.json: the trials of a sweep and what became of each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ConfigError, RunDirError
from finetune.secrets import redact
from finetune.whole_file import replace_text

FILE = "sweep.json"
Status = Literal["waiting", "finished", "stopped", "stopped early", "failed", "does not fit"]
"""`stopped` can go on; `stopped early` was left behind by the others and will not."""
SETTLED = ("finished", "stopped early", "does not fit")
"""What `--resume` leaves as it is."""


@dataclass
class Trial:
    """One run of a sweep. `values` by searched key; bytes are predicted, of the whole process, and what the device has;
    `metric` is the held-out figure at its end, `seconds` those of the training loop, `reason` why there is none and
    `advice` what helps."""

    name: str
    values: dict[str, Any]
    status: Status = "waiting"
    predicted_bytes: int | None = None
    device_bytes: int | None = None
    metric: float | None = None
    steps: int | None = None
    seconds: float | None = None
    reason: str = ""
    advice: list[str] = field(default_factory=list)

    def words(self) -> str:
        """Its values as they would stand on the command line."""
        return " ".join(self.overrides())

    def overrides(self) -> list[str]:
        """Its values as arguments of `finetune train`: JSON is YAML."""
        return [f"{key}={json.dumps(value)}" for key, value in self.values.items()]


@dataclass
class Record:
    """A sweep: how it was asked for, and its trials. `config` is the configuration they share, `largest` whether the
    largest `metric` is the best."""

    path: Path
    settings: dict[str, Any]
    config: dict[str, Any]
    metric: str
    largest: bool
    trials: list[Trial]

    def to_json(self) -> dict[str, Any]:
        """What sweep.json holds and `--json` prints; trials from the best to the worst, then the others."""
        return {
            "metric": self.metric,
            "best": "largest" if self.largest else "smallest",
            "trials": [{**asdict(trial), "run": str(self.path / trial.name)} for trial in self.ranked()],
            "sweep": self.settings,
            "config": self.config,
        }

    def save(self) -> None:
        """Writes it down, whole or not at all. Raises OSError."""
        replace_text(self.path / FILE, redact(json.dumps(self.to_json(), indent=2)) + "\n")

    def ranked(self) -> list[Trial]:
        """Finished trials from the best to the worst, then the others by what became of them and by name."""
        order = ("finished", "stopped early", "stopped", "waiting", "failed", "does not fit")

        def key(trial: Trial) -> tuple[int, float, str]:
            worth = float("inf") if trial.metric is None else -trial.metric if self.largest else trial.metric
            return order.index(trial.status), worth, trial.name

        return sorted(self.trials, key=key)

    def left(self) -> list[Trial]:
        """Trials that are still to be run, or to be run to their end."""
        return [trial for trial in self.trials if trial.status not in SETTLED]

    def take_up(self) -> bool:
        """Takes what became of the trials from sweep.json, where there is one. Raises RunDirError where that is
        damaged, ConfigError where it is of another sweep."""
        file = self.path / FILE
        if not file.exists():
            return False
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            trials = {one["name"]: Trial(**{k: v for k, v in one.items() if k != "run"}) for one in kept["trials"]}
            settings, config = kept["sweep"], kept["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirError(
                f"{file} cannot be read ({type(error).__name__}: {error})", "name another output_dir"
            ) from None
        self._require_same(settings, config, trials)
        self.trials = [trials[trial.name] for trial in self.trials]
        return True

    def _require_same(self, settings: dict[str, Any], config: dict[str, Any], trials: dict[str, Trial]) -> None:
        mine = json.loads(redact(json.dumps([self.settings, self.config])))  # as it would have been written down
        now, then = _flat(*mine), _flat(settings, config)
        changed = [key for key in dict.fromkeys([*now, *then]) if now.get(key) != then.get(key)]
        values = {trial.name: trial.values for trial in self.trials}
        if not changed and values != {name: trial.values for name, trial in trials.items()}:
            changed = ["what Ray draws from the seed, in another version of it"]
        if changed:
            raise ConfigError(
                f"{self.path} holds a sweep of other settings: {', '.join(changed)}",
                "set them back as they were, or name another output_dir",
            )


def _flat(settings: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """What decides which trials there are and what each does, by key; not where files lie."""
    found = {key: value for key, value in settings.items() if key not in ("config", "output_dir")}
    for section, values in config.items():
        if isinstance(values, dict):
            found |= {f"{section}.{key}": value for key, value in values.items()}
        elif section != "output_dir":
            found[section] = values
    return found
