"""Ctrl-C, and the signals by which a host asks a run to end: the update is finished, saved, and the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from transformers import TrainerCallback

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C; a spot instance's notice, `docker stop`, a scheduler's end of time; a terminal that was closed."""


class Interrupts(TrainerCallback):
    """As a context manager it takes these signals. The first one while the model trains is noted in `asked`, any other
    raises KeyboardInterrupt where it comes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.asked: str | None = None
        self._training = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody
            self._before = {number: signal.signal(number, self._come) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if not self._training or self.asked:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
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
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """The same after an evaluation, which may have taken minutes."""
        self.on_step_end(args, state, control)
