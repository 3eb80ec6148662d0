"""Many runs of one configuration: sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from finetune.cli.options import Json, err, importing, print_json, say
from finetune.secrets import redact

if TYPE_CHECKING:
    from finetune.sweep.record import Record


WIDTH = 240
"""Columns of the table where it is not shown on a terminal."""


def sweep(
    path: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="YAML file of a sweep, such as configs/sweeps/qlora_r16.yaml.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is left; begin where nothing was done.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Price the trials, and run none.")] = False,
    gpu: Annotated[
        str | None, typer.Option(help="With --dry-run: a card (RTX 4090, T4) or a size (24GiB) to price them for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try values of some keys: what cannot fit is left out beforehand, the rest is run, resumed and compared."""
    with importing():
        from finetune import sweeping
        from finetune.sweep.outcome import conclude, require_some

    record = sweeping.sweep(path, resume=resume, gpu=gpu, dry_run=dry_run, say=_note)
    if as_json:
        print_json(record.to_json())
    else:
        _show(record)
    if dry_run:
        say(["dry run: nothing was trained"])
        require_some(record)
        return
    say([f"result: {record.path / 'sweep.md'}"])
    conclude(record, path)


def _note(*notes: str) -> None:
    for note in notes:
        err.print(redact(note), markup=False, highlight=False, soft_wrap=True)


def _show(record: Record) -> None:
    from rich.table import Table as Grid

    from finetune.study import shown
    from finetune.sweep.table import remarks, table

    made = table(record)
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for column in made.columns:
        left = column in ("trial", "status")
        grid.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in made.rows:
        grid.add_row(*(shown(value) for value in row))
    console = Console()
    if not console.is_terminal:  # whoever reads it there takes whole lines
        console.width = max(console.width, WIDTH)
    console.print(grid)
    for remark in remarks(record):
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
