"""receipt.json: what a run was made of and what came of it, sealed; and whether it still is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from finetune.errors import RunDirError
from finetune.report.inputs import differences, file_hashes, sha256_of, sha256_of_text
from finetune.report.run_dir import RunDir
from finetune.secrets import redact

NAME = "receipt.json"


class Check(NamedTuple):
    """One thing that was looked at. `state` is ok, changed (it is not what the receipt says), absent (it is not on this
    machine) or other (this machine is another one, which a receipt does not forbid)."""

    name: str
    state: str
    detail: str = ""


class Receipt:
    """What a run is made of. A run that is resumed finds what it was made of before, and names all that differs."""

    def __init__(self, run: RunDir, *, allow_drift: bool) -> None:
        self.run, self.allow_drift = run, allow_drift
        self.path = run.path / NAME
        self.content = read_receipt(run.path) if self.path.exists() else {"format": 1, "drift": []}

    def enter(self, found: dict[str, Any], step: int = 0) -> list[str]:
        """Takes these inputs in. Returns notes of what differs from those of before; raises RunDirError naming all of
        it where that is not allowed. `step` is the update from which the run goes on."""
        found = json.loads(redact(json.dumps(found)))  # as it is written, so that it can be compared
        before = {name: self.content[name] for name in found if name in self.content}
        named = differences(before, {name: found[name] for name in before})
        changed = [one.removeprefix("settings.") for one in named]
        if changed and not self.allow_drift:
            raise RunDirError(
                f"{self.run.path}: what the run is made of has changed since it began: {'; '.join(changed)}",
                "put it back; or go on all the same with `--allow-drift`, and the receipt will say so; or train anew "
                "in another output_dir",
            )
        if changed:
            self.content["drift"].append({"from_step": step, "changed": changed})
        self.content |= found
        return [f"drift allowed: {one}" for one in changed]

    def enter_processes(self, count: int, step: int) -> list[str]:
        """Notes how many processes the run has. Another number than before is no drift that needs allowing: updates
        are the same, but for the order of sums, and for dropout. It is said all the same."""
        before = self.content.get("processes", 1) if "seal" in self.content else count
        if count > 1 or "processes" in self.content:
            self.content["processes"] = count
        if before == count:
            return []
        changed = f"processes were {before}, are {count}"
        self.content["drift"].append({"from_step": step, "changed": [changed]})
        return [f"{changed}: the same updates, with sums in another order and other dropout"]

    def save(self) -> None:
        """Writes it, sealed. Raises OSError."""
        if not self.run.writes:
            return
        self.content["config"] = sha256_of(self.run.path / "config.yaml")
        self.run.write_json(NAME, self.content | {"seal": _seal(self.content)})

    def finish(self) -> None:
        """Adds what came of the run. Raises OSError."""
        if not self.run.writes:
            return
        self.content["adapter"] = file_hashes(self.run.adapter)
        self.save()


def read_receipt(run: Path) -> dict[str, Any]:
    """A run's receipt. Raises RunDirError where there is none, or it is not as finetune wrote it."""
    try:
        content = json.loads((run / NAME).read_text(encoding="utf-8"))
        if content["seal"] == _seal(content):
            return content
        reason = "its seal does not match what it says"
    except FileNotFoundError:
        raise RunDirError(f"{run} has no {NAME}", "the run was made by an older finetune, or never began") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read: {error}"
    raise RunDirError(f"{run / NAME}: {reason}", "it was changed after the run wrote it: put the original back")


def check_outputs(run: RunDir, receipt: dict[str, Any]) -> Iterator[Check]:
    """Whether configuration and adapter are those of the receipt."""
    yield _compare("config.yaml", receipt.get("config"), sha256_of(run.path / "config.yaml"))
    if "adapter" not in receipt:
        yield Check("adapter", "absent", "the run is not finished")
        return
    now = file_hashes(run.adapter)
    for name, then in receipt["adapter"].items():
        yield _compare(f"adapter/{name}", then, now.pop(name, None))
    for name in now:
        yield Check(f"adapter/{name}", "changed", "the receipt knows no such file")


def check_inputs(receipt: dict[str, Any], found: dict[str, Any]) -> Iterator[Check]:
    """Whether what a run was made of is what is here now."""
    for name, now in found.items():
        changed = list(differences(receipt.get(name), now, name))
        yield Check(name, "changed" if changed else "ok", "; ".join(changed))


def check_machine(receipt: dict[str, Any], found: dict[str, Any]) -> Iterator[Check]:
    """In what this machine is another than the run's."""
    for name, now in found.items():
        changed = list(differences(receipt.get(name), now, name))
        yield Check(name, "other" if changed else "ok", "; ".join(changed))


def _compare(name: str, then: str | None, now: str | None) -> Check:
    if now is None:
        return Check(name, "changed", "it is gone")
    return Check(name, "ok") if then == now else Check(name, "changed", f"was {str(then)[:12]}, is {now[:12]}")


def _seal(content: dict[str, Any]) -> str:
    """SHA-256 of all that a receipt says."""
    return sha256_of_text(json.dumps({key: value for key, value in content.items() if key != "seal"}, sort_keys=True))
