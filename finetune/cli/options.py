"""What several commands take, and how they print."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TimeElapsedColumn

err = Console(stderr=True)

Config = Annotated[Path, typer.Argument(help="YAML configuration, such as configs/qlora_r16.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Keys to change: training.max_steps=20 lora.r=8.", show_default=False)
]
DataOverrides = Annotated[
    list[str] | None, typer.Argument(help="Keys of data to change: data.max_length=1024.", show_default=False)
]
Run = Annotated[Path, typer.Argument(help="Run directory (the output_dir of a run).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

Gpu = Annotated[str | None, typer.Option(help="A card (RTX 4090, T4) or a size (24GiB); this machine's where absent.")]
WithData = Annotated[bool, typer.Option("--data", help="Read the data, and price the lengths that its rows have.")]


@contextmanager
def importing() -> Iterator[None]:
    """For the imports of what a command needs, which are half a million objects that stay: Python looks for garbage
    neither while they are made, which would be a quarter of the time, nor among them ever after."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, indent=2))


def say(lines: Iterable[str]) -> None:
    """Lines for people, on stderr, as they are."""
    for line in lines:
        err.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def steps() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr for each step that is begun."""
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def update(step: str, share: float) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=1)
            bars.update(tasks[step], completed=share)

        yield update
