"""The data before it costs anything: data check, data preview."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from finetune.cli.options import Config, Json, Overrides, print_json, say
from finetune.errors import ConfigError, DataError


def check(
    source: Annotated[
        Path,
        typer.Argument(help="A file of rows, or a configuration for all of its sources.", show_default=False),
    ],
    overrides: Overrides = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="All rules but this one; may be repeated.")] = None,
    skip_bad: Annotated[
        Path | None, typer.Option(help="Write lines that cannot be read to this new file, with their reasons.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Defects of a data set that are found without a model: damaged lines, copies, placeholders, residue, loops."""
    from finetune.data import findings
    from finetune.data.check import check_file, check_sources

    options = {"rules": rule, "without": without or (), "skip_bad": skip_bad}
    if source.suffix in (".yaml", ".yml"):
        from finetune.config import load_config

        loaded = load_config(source, overrides or [])
        results = check_sources(loaded.data, seed=loaded.training.seed, **options)
    elif overrides:
        raise ConfigError(f"{overrides[0]}: {source} is a file of rows, which has no keys", "name a configuration")
    else:
        results = [check_file(source, **options)]
    if as_json:
        print_json(findings.together(results))
    else:
        for result in results:
            findings.show(result, Console())
    if any(findings.refused(result) for result in results):
        raise typer.Exit(DataError.exit_code)


def show_rows(
    config: Config,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to show.")] = 3,
) -> None:
    """Rendered training rows, the trained tokens in green."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    from finetune.data import load_data, preview
    from finetune.spec import describe

    loaded_data = load_data(describe(loaded))
    say(loaded_data.notes)
    out = Console()
    for title, text in preview(loaded_data, rows):
        out.rule(escape(title))
        out.print(text)
