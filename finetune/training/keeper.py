"""When checkpoints are written, and what happens where one cannot be: the run waits, or stops; nothing is lost."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from finetune.errors import FinetuneError, Stopped
from finetune.training.checkpoints import newest_good
from finetune.training.nonfinite import LOWER, finite

if TYPE_CHECKING:
    from finetune.training.interrupts import Interrupts
    from finetune.training.watched import Watched

INTERVAL = 600.0
"""Seconds between the checkpoints of `training.save_steps=auto`: what a power cut costs at most."""

SHARE = 0.01
"""Most of the time that those may take."""

LOOK_EVERY = 10.0
"""Seconds between two looks at the disk."""

PATIENCE = 5.0
"""Seconds between two looks while a run waits for room."""

FULL = (errno.ENOSPC, errno.EDQUOT)

MARGIN = 64 * 2**20
"""Bytes kept free besides: metrics and the report at the end."""


class Keeper(TrainerCallback):
    """Stands between a trainer and its checkpoints once `begin` was called; `before` is called ahead of each."""

    def __init__(
        self, trainer: Watched, interrupts: Interrupts, say: Callable[[str], None], before: Callable[[], None]
    ) -> None:
        self.trainer, self.interrupts, self.say, self.before = trainer, interrupts, say, before
        self.folder = Path(trainer.args.output_dir)
        self.by_clock = trainer.spec.config.training.save_steps == "auto"
        self.needed, self.seconds = MARGIN, 0.0

    def begin(self, expected: int) -> None:
        """From here on checkpoints go through here; `expected` is the size of one, in bytes."""
        self.needed = expected + MARGIN
        self._saved = self._looked = time.monotonic()
        self._write, self.trainer.save = self.trainer.save, self.save

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Has a checkpoint written when its time has come, and when the disk fills: it waits for room."""
        now = time.monotonic()
        due = self.by_clock and now - self._saved >= max(INTERVAL, self.seconds / SHARE)
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            due |= self._free() < self.needed
        control.should_save = self.trainer.processes.told(lambda: control.should_save or due)

    def save(self) -> None:
        """Writes a checkpoint of the run as it is, patiently. Raises Stopped as `patiently`, FinetuneError where the
        adapter holds no numbers any more."""
        step = self.trainer.state.global_step
        _require_finite(self.trainer)

        def write() -> None:
            self.before()
            self._write()

        began = time.monotonic()
        self.patiently(write, f"checkpoint-{step}")
        self._saved = time.monotonic()
        self.seconds = self._saved - began

    def patiently(self, write: Callable[[], None], what: str) -> None:
        """Has `what` written: at once, or when there is room again. Raises Stopped where that fails twice for another
        reason, or where the run is to stop while it waits."""
        if not self.trainer.processes.main:
            return None
        if self._free() < self.needed:
            self._wait(what, f"{_mebibytes(self._free())} are free, {_mebibytes(self.needed)} are needed")
        failed = False
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno in FULL:
                    self._wait(what, str(error.strerror))
                elif failed:
                    raise self._stopped(what, error.strerror or str(error)) from None
                failed |= error.errno not in FULL

    def _wait(self, what: str, why: str) -> None:
        """Until there is room, or the run is to stop."""
        self.say(f"paused: no room for {what} in {self.folder} ({why}); free some and the run goes on")
        while True:
            time.sleep(PATIENCE)
            if self.interrupts.asked:
                raise self._stopped(what, why)
            if self._free() >= self.needed:
                break
        self.say("there is room again: the run goes on")

    def _free(self) -> int:
        return shutil.disk_usage(next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())).free

    def _stopped(self, what: str, why: str) -> Stopped:
        good = newest_good(self.folder)
        return Stopped(
            f"{what} could not be written ({why}); "
            + (f"the last good checkpoint is {good.name}" if good else "there is no good checkpoint"),
            self.folder.parent,
            "see to the disk and its permissions, then ",
        )


def _require_finite(trainer: Watched) -> None:
    """A checkpoint whose adapter holds no numbers would push a good one out."""
    if not finite(trainer.model):
        raise FinetuneError(
            f"the adapter holds no numbers any more at step {trainer.state.global_step}",
            f"the last checkpoint is good; train anew in another output_dir with {LOWER}",
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
