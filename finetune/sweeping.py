"""`finetune sweep`: the trials are checked and priced, those that fit are run, and the outcome is one table."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.config import HardwareConfig, RunConfig, SweepConfig, load_config, load_each, load_sweep
from finetune.errors import ConfigError, DoesNotFit, RunDirError, Stopped
from finetune.pipeline import look_ahead
from finetune.preflight import Verdict
from finetune.report.lock import LOCK, OWNER, Lock
from finetune.spec.device import find_device
from finetune.sweep.drawing import draw
from finetune.sweep.jobs import make_jobs, overrides
from finetune.sweep.outcome import resuming, settle
from finetune.sweep.record import FILE, Record, Trial
from finetune.sweep.table import write_pages
from finetune.sweep.tuning import Plan, tune_trials

GIB = 2**30
PRICELESS = {
    "training": {"learning_rate", "lr_scheduler", "warmup_ratio", "weight_decay", "max_grad_norm", "seed"},
    "lora": {"alpha"},
}
"""Keys that change no byte and no operation: trials that differ in these alone are priced once."""
PATIENCE = 60
"""Seconds to wait for the processes of a sweep that was killed: they end by themselves, at once."""
Say = Callable[..., None]


def sweep(
    path: Path, *, resume: bool = False, gpu: str | None = None, dry_run: bool = False, say: Say = print
) -> Record:
    """Runs the trials of a sweep that fit, or all that are left with `resume`; with `dry_run` they are priced, for a
    card `gpu` where it is named, and nothing is run or written. `conclude` raises what the outcome calls for.

    Raises the errors of `finetune.errors`.
    """
    if gpu and not dry_run:
        raise ConfigError(f"--gpu {gpu}: trials run on the cards of this machine", "price them with --dry-run --gpu")
    asked = load_sweep(path)
    base = load_config(asked.config)
    record = _record(asked, base, draw(asked))
    configs = load_each(asked.config, [overrides(record, trial) for trial in record.trials])
    _require_figures(asked, record, configs)
    if dry_run:
        _price(record, configs, gpu, say)
        return record
    with _claimed(record.path, resume):
        if resume and record.take_up():
            say(f"{record.path}: {len(record.left())} of {len(record.trials)} trials are left")
        else:
            _require_disk(_price(record, configs, gpu, say), record)
        if record.left():
            plan = _plan(record, asked, base)
            with _written(record, path):
                record.save()
            _run(record, asked, plan, say)
        with _written(record, path):
            record.save()
            write_pages(record)
    return record


def _record(asked: SweepConfig, base: RunConfig, drawn: Sequence[dict[str, Any]]) -> Record:
    """The sweep before anything is known of its trials."""
    metric = asked.metric or ("eval_reward" if base.training.online else "eval_loss")
    digits = len(str(len(drawn)))
    trials = [Trial(f"trial-{number:0{digits}}", values) for number, values in enumerate(drawn, 1)]
    path = Path(asked.output_dir).expanduser()
    settings, config = asked.model_dump(mode="json"), base.model_dump(mode="json")
    return Record(path, settings, config, metric, metric != "eval_loss", trials)


def _require_figures(asked: SweepConfig, record: Record, configs: Sequence[RunConfig]) -> None:
    """Raises ConfigError where a trial would end without the figure that it is to be compared by."""
    figures = {"sft": ["eval_loss"], "dpo": ["eval_loss", "eval_margin", "eval_accuracy"]}
    for trial, config in zip(record.trials, configs, strict=True):
        where, method = f"{trial.name} ({trial.words()})", config.training.method
        known = figures.get(method, ["eval_reward"])
        if record.metric not in known:
            raise ConfigError(f"{where}: {method} has no {record.metric}", f"set metric to {' or '.join(known)}")
        if not config.data.holds_out:
            raise ConfigError(
                f"{where}: no rows are held out, and {record.metric} is of those",
                "set data.eval or data.eval_fraction in the configuration",
            )
        if asked.grace_steps and config.training.eval_steps is None:
            raise ConfigError(
                f"{where}: early_stopping=asha looks at figures on the way, and training.eval_steps is null",
                "set training.eval_steps in the configuration",
            )


@contextlib.contextmanager
def _claimed(path: Path, resume: bool) -> Iterator[None]:
    """The directory of the sweep, for this process alone. Raises RunDirError where it holds something else, or a sweep
    that is not to be resumed."""
    if not resume and (path / FILE).exists():
        raise RunDirError(
            f"output_dir: {path} already holds a sweep", "go on with `--resume`, or name another output_dir"
        )
    lock = Lock(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not (path / FILE).exists() and any(one.name not in (LOCK, OWNER) for one in path.iterdir()):
            raise RunDirError(f"output_dir: {path} is not empty", "name a directory that does not exist yet")
        lock.acquire()
    except OSError as error:
        raise RunDirError(
            f"output_dir: {path} cannot be written ({error.strerror})", "name a directory that you may write to"
        ) from None
    try:
        yield
    finally:
        lock.release()
        if not (path / FILE).exists():  # it never began: as if it had not been asked for
            with contextlib.suppress(OSError):
                (path / LOCK).unlink(missing_ok=True)
                path.rmdir()


@contextlib.contextmanager
def _written(record: Record, path: Path) -> Iterator[None]:
    """Raises Stopped where the disk does not take what becomes of the sweep."""
    try:
        yield
    except OSError as error:
        raise Stopped(
            f"{record.path} cannot be written ({error.strerror})",
            record.path,
            first="see to the disk and its permissions, then ",
            command=resuming(path),
        ) from None


def _price(record: Record, configs: Sequence[RunConfig], gpu: str | None, say: Say) -> list[Verdict]:
    """Preflights every trial, and marks those that do not fit. Raises DoesNotFit where they need an absent card."""
    known: dict[str, Verdict] = {}
    verdicts = []
    for trial, config in zip(record.trials, configs, strict=True):
        key = price_key(config)
        if key not in known:
            known[key] = look_ahead(config, gpu)
            if not gpu and not known[key].spec.device.present:
                known[key].require_fit()
        verdict = known[key]
        trial.predicted_bytes, trial.device_bytes = verdict.needed, verdict.spec.device.memory_bytes
        if not verdict.fits:
            trial.status, trial.reason, trial.advice = "does not fit", "; ".join(verdict.problems), verdict.advice
        fits = "fits" if verdict.fits else "does not fit"
        say(f"{trial.name} {trial.words()}: {trial.predicted_bytes / GIB:.2f} GiB, {fits}")
        verdicts.append(verdict)
    return verdicts


def price_key(config: RunConfig) -> str:
    """Equal for two configurations that a preflight prices the same."""
    tree = config.model_dump(mode="json") | {"output_dir": ""}
    for section, names in PRICELESS.items():
        tree[section] = {name: value for name, value in tree[section].items() if name not in names}
    return json.dumps(tree)


def _require_disk(verdicts: Sequence[Verdict], record: Record) -> None:
    """Raises DoesNotFit where the disk has room for each trial, but not for all."""
    fitting = [verdict for verdict in verdicts if verdict.fits]
    needs = [
        need
        for verdict in fitting
        for need in verdict.disk.needs
        if need.required and record.path in Path(need.path).parents
    ]
    total, free = sum(need.bytes for need in needs), min((need.free_bytes for need in needs), default=0)
    if total > free:
        raise DoesNotFit(
            f"{len(fitting)} trials write {total / GIB:.2f} GiB to {record.path}, but {free / GIB:.2f} GiB are free",
            "free disk space, set another output_dir, or fewer trials",
        )


def _run(record: Record, asked: SweepConfig, plan: Plan, say: Say) -> None:
    """Runs what is left, and writes down what becomes of each trial when it ends."""
    _wait_for_the_dead(record)
    named = {trial.name: trial for trial in record.trials}

    def ended(name: str, result: dict[str, Any] | None) -> None:
        trial = named[name]
        if trial.status in ("waiting", "stopped", "failed"):
            settle(record, trial, result)
            with contextlib.suppress(OSError):  # its run directory says the same; at the end it is tried again
                record.save()
            if trial.status == "waiting":
                return
            figure = "" if trial.metric is None else f", {record.metric} {trial.metric:.4f}"
            say(f"{name} {trial.words()}: {trial.status}{figure}{trial.reason and f', {trial.reason}'}")

    try:
        tune_trials(lambda stop: make_jobs(record, asked.config, plan, stop), plan, ended, say)
    except KeyboardInterrupt:
        say("stopped at once: trials go on from their last checkpoints")


def _plan(record: Record, asked: SweepConfig, base: RunConfig) -> Plan:
    """Raises ConfigError for more trials at once than cards, DoesNotFit for more than a CPU's memory has room for."""
    cards = torch.cuda.device_count() if base.hardware.device != "cpu" else 0
    concurrent = asked.concurrent or max(1, cards)
    if cards and concurrent > cards:
        raise ConfigError(
            f"concurrent: {concurrent}, but this machine has {cards} cards and each trial takes one",
            f"set concurrent to {cards} or less",
        )
    largest = sorted((trial.predicted_bytes or 0 for trial in record.left()), reverse=True)[:concurrent]
    has = find_device(HardwareConfig(device="cpu")).memory_bytes  # hardware.memory limits each run, not all of them
    if not cards and sum(largest) > has:
        raise DoesNotFit(
            f"concurrent: {concurrent} trials at once need {sum(largest) / GIB:.1f} GiB, "
            f"but this machine has {has / GIB:.1f} GiB",
            "set concurrent to less",
        )
    return Plan(concurrent, cards, record.metric, record.largest, asked.grace_steps)


def _wait_for_the_dead(record: Record) -> None:
    """A sweep that was killed takes its trials with it, which is not quite at once. Raises RunDirError where one goes
    on writing."""
    until = time.monotonic() + PATIENCE
    for run in (record.path / trial.name for trial in record.left()):
        while (run / LOCK).exists():
            lock = Lock(run)
            try:
                lock.acquire()
                lock.release()
                break
            except RunDirError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
