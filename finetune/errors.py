"""Every error a user can cause, on one page.

Each carries what is wrong (with the value that was found), a hint saying what to do, and the exit code of
the command-line contract. Anything that is not a `FinetuneError` is a bug of ours and exits with 1.
"""

from __future__ import annotations

import shlex
from pathlib import Path


class FinetuneError(Exception):
    """Base of all user errors: `message` says what is wrong, `hint` what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class ConfigError(FinetuneError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class ModelError(ConfigError):
    """The model that the configuration names cannot be used as it is."""


class RunDirError(ConfigError):
    """The run directory cannot be created, or what it holds cannot be used."""


class DoesNotFit(FinetuneError):
    """The machine lacks the device, memory or disk that the run needs."""

    exit_code = 3


class DataError(FinetuneError):
    """The data is not fit to train on."""

    exit_code = 4


class Stopped(FinetuneError):
    """The run in directory `run` was stopped, on purpose or by a fault outside it, and can be resumed; `first` is what
    is to be done before, `command` what goes on where it is no run."""

    exit_code = 5

    def __init__(self, message: str, run: Path, first: str = "", command: str = "") -> None:
        command = command or f"finetune train {shlex.quote(str(run / 'config.yaml'))} --resume"
        super().__init__(message, f"{first}go on with `{command}`")


class ProcessLost(FinetuneError):
    """One of the processes of a run has ended, which the others cannot do without."""

    exit_code = 5


class AuditError(FinetuneError):
    """What was built differs from what was described: a bug of ours or of a library, never the user's."""
