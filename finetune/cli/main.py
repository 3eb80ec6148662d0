"""The commands by name, and how errors end: a message, a hint and the contract's exit code."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from finetune.cli import line, machine, rows, runs, senses, sweeps, terms
from finetune.cli.options import err
from finetune.errors import ConfigError, FinetuneError, Stopped
from finetune.processes import rank_of
from finetune.regular_file import require_name
from finetune.secrets import redact

RANK = rank_of(os.environ)
"""This process's place among those of a run; read before `train` takes it out of the environment."""

GRACE = 3.0
"""Seconds in which a launcher has surely ended the others once one has failed."""

INTERRUPTED = 130
"""What typer gives back for Ctrl-C where nothing catches it: outside the training loop."""


def _commands() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    for command in (line.train, line.preflight, line.plan, sweeps.sweep, machine.lab):
        app.command()(_with_names(command))
    app.command("eval")(_with_names(runs.evaluate))
    for command in (
        runs.chat,
        runs.export,
        runs.report,
        runs.verify,
        runs.verify_resume,
        machine.doctor,
        machine.schema,
    ):
        app.command()(_with_names(command))
    data = typer.Typer(no_args_is_help=True, help="Look at the data before it costs anything.")
    data.command()(_with_names(rows.check))
    data.command()(_with_names(rows.curate))
    data.command("preview")(_with_names(rows.show_rows))
    data.command("map")(_with_names(rows.map_rows))
    data.command()(_with_names(rows.needed))
    data.command()(_with_names(terms.senses))
    app.add_typer(data, name="data")
    words = typer.Typer(no_args_is_help=True, help="Which sense a word has where it stands.")
    words.command()(_with_names(senses.fit))
    words.command()(_with_names(senses.predict))
    app.add_typer(words, name="senses")
    return app


def _with_names(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which raises ConfigError before anything else where no file can have the name of a path it takes."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        for value in arguments.values():
            if isinstance(value, Path):
                try:
                    require_name(str(value))
                except ValueError as error:
                    raise ConfigError(str(error), "give the path of a file or directory") from None
        command(**arguments)

    return run


app = _commands()


def main() -> None:
    """Entry point: turns errors into a message, a hint and the contract's exit code."""
    _quiet_libraries()
    try:
        code = app(standalone_mode=False)  # a command's exit code comes back as its value
    except FinetuneError as error:
        _fail(error.message, error.hint, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            _fail(error.format_message(), "`finetune --help` shows how", 2)
        _hold_back(1)
        print(redact(traceback.format_exc()), file=sys.stderr)
        _fail(
            f"unexpected {type(error).__name__}: {error}",
            "this is a fault of finetune; please report it with the trace above",
            1,
        )
    if code == INTERRUPTED:
        _fail("stopped", "", 5)
    sys.exit(code)


def _hold_back(code: int) -> None:
    """Of several processes those beside the first say only what it does not say: most errors all of them have, and the
    launcher ends the others as soon as one has ended. That the run stops, the first one says."""
    if RANK and code == Stopped.exit_code:
        sys.exit(code)
    if RANK:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(GRACE)


def _fail(message: str, hint: str, code: int) -> None:
    _hold_back(code)
    who = f"process {RANK + 1}: " if RANK else ""
    err.print(f"[bold red]error:[/bold red] {who}{escape(redact(message))}", highlight=False, soft_wrap=True)
    if hint:
        err.print(f"\n[bold cyan]hint:[/bold cyan] {escape(redact(hint))}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _quiet_libraries() -> None:
    """Keeps the libraries' progress bars and deprecation notices, meant for those who call them, off the terminal."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"(torch|transformers|peft|trl|accelerate|bitsandbytes)\b"
    )
    defaults = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
