"""Ray Tune: trials at once, each with its card, early stopping, and the end of everything that was started.

Ray is started anew for every sweep and every resume, and told only which trials are left: what became of the others
stands in our own sweep.json, and each trial's own run directory knows where it was. So nothing hangs on the state that
Ray writes (`Tuner.restore` needs it whole, of the same version, with checkpoints of its own making).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.sweep.trial import Job, run_trial

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
LONGEST_FOLDER = 40
"""Bytes of the name of Ray's folder: with what Ray adds, a socket's name must stay under 108 (unix(7))."""
STORE_BYTES = 80 * 2**20
"""Ray's object store, near the least it takes: trials hand on a few numbers."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a configuration are relative to the folder of the command
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last result is its exit code
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the preflight has said what fits; Ray would kill by its own rule
}


@dataclass(frozen=True)
class Plan:
    """How trials are run: `concurrent` at once, with a card each where `cards`; `grace` updates before early stopping
    by `metric`, None where there is none."""

    concurrent: int
    cards: int
    metric: str
    largest: bool
    grace: int | None


Ended = Callable[[str, dict[str, Any] | None], None]
"""Told when a trial is over: its name and its last result, None where Ray's worker died."""


def tune_trials(
    make_jobs: Callable[[Path], dict[str, Job]], plan: Plan, ended: Ended, say: Callable[..., None]
) -> None:
    """Runs trials, each to its end. `make_jobs` gets the file that asks them to stop: the first signal (Ctrl-C,
    SIGTERM) makes it, so that each finishes its update and saves; a second one raises KeyboardInterrupt at once."""
    os.environ.update(QUIET)
    with _folder() as folder:
        stop = folder / "stop"
        jobs, failure = make_jobs(stop), list[BaseException]()

        def fit() -> None:
            try:
                _fit(jobs, plan, ended, folder)
            except BaseException as error:
                failure.append(error)

        # In a thread of its own, for Ray takes Ctrl-C where it runs in the first one, and kills what it has started.
        thread = threading.Thread(target=fit, daemon=True)
        with Path(os.devnull).open("w") as nowhere, _signals(stop, say), contextlib.redirect_stdout(nowhere):
            thread.start()
            try:
                while thread.is_alive():
                    thread.join(0.2)
            except KeyboardInterrupt:
                _end_ray()
                raise
        if failure:
            raise failure[0]


def _fit(jobs: dict[str, Job], plan: Plan, ended: Ended, folder: Path) -> None:
    from ray import tune

    class Told(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            ended(trial.config["trial"], trial.last_result or {})

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            ended(trial.config["trial"], None)

    with _ray(plan, folder):
        trainable = tune.with_parameters(run_trial, jobs=jobs)
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1, "gpu": 1 if plan.cards else 0}),
            param_space={"trial": tune.grid_search(list(jobs))},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(plan), max_concurrent_trials=plan.concurrent, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=str(folder / "results"), verbose=0, callbacks=[Told()]
            ),
        ).fit()


def _end_ray() -> None:
    """Ends Ray, its workers, and with them the trials."""
    import ray

    ray.shutdown()


def _scheduler(plan: Plan) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    if plan.grace is None:
        return None
    return ASHAScheduler(
        time_attr="step", metric=plan.metric, mode="max" if plan.largest else "min",
        grace_period=plan.grace, reduction_factor=2,
        max_t=plan.grace * 2**20,  # never reached: a trial ends by itself
    )  # fmt: skip


@contextlib.contextmanager
def _ray(plan: Plan, folder: Path) -> Iterator[None]:
    """Ray on this machine alone, silent, for as long as the block runs."""
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray.init(
        address="local", num_cpus=plan.concurrent, num_gpus=plan.cards, include_dashboard=False,
        log_to_driver=False, logging_level=logging.CRITICAL, object_store_memory=STORE_BYTES,
        _temp_dir=str(folder),
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for Ray's logs and sockets, gone at the end; where the process is killed it is left to the system."""
    place = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="ft-ray-", dir=place if len(place) < LONGEST_FOLDER - 16 else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _signals(stop: Path, say: Callable[..., None]) -> Iterator[None]:
    def come(number: int, frame: Any) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()
        name = signal.Signals(number).name
        say(f"{name}: the trials finish their update and save, then the sweep stops; once more stops it at once")

    before = {number: signal.signal(number, come) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
