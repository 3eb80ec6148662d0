"""Ctrl-C, and the signals by which a host asks a run to end: the update is finished, saved, and the run stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from transformers import TrainerCallback

from finetune.processes import ALONE, Processes

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C; a spot instance's notice, `docker stop`, a scheduler's end of time; a terminal that was closed."""

ECHO = 2.0
"""Seconds within which a second signal is the first one again: a launcher passes on what the terminal sends to all."""


class Interrupts(TrainerCallback):
    """As a context manager it takes these signals. The first one while the model trains is noted in `asked`, any other
    raises KeyboardInterrupt where it comes. What one process is asked for, all do after the same update."""

    def __init__(self, say: Callable[[str], None], processes: Processes = ALONE) -> None:
        self.say, self.processes = say, processes
        self._when = 0.0
        self.asked: str | None = None
        self._training = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody
            self._before = {number: signal.signal(number, self._come) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._come:
                signal.signal(number, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self.processes.alone and time.monotonic() - self._when < ECHO:
            return
        if not self._training or self.asked:
            raise KeyboardInterrupt
        self.asked, self._when = signal.Signals(number).name, time.monotonic()
        self.say(f"{self.asked}: the update is finished and saved, then the run stops; once more stops it at once")

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt where the run was asked to end."""
        if self.asked:
            raise KeyboardInterrupt

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """From here on there is something to finish."""
        self._training = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Nothing is left to finish."""
        self._training = False

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Saves and ends where it was asked for."""
        self.asked = next(filter(None, self.processes.gather(self.asked)), None)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """The same after an evaluation, which may have taken minutes."""
        self.on_step_end(args, state, control)
