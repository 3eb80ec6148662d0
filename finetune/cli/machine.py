"""This machine and what stands behind the product: lab, doctor, schema."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune.cli.options import Json, importing, print_json, say
from finetune.errors import ConfigError

LABS = {
    "descent": "finetune.batching.descent_lab",
    "batch": "finetune.batching.batch_lab",
    "classic": "finetune.curation.classic_lab",
    "reinforce": "finetune.rl.reinforce_lab",
    "actor-critic": "finetune.rl.actor_critic_lab",
    "dqn": "finetune.rl.dqn_lab",
    "sequence": "finetune.sequence.sequence_lab",
    "senses": "finetune.senses.senses_lab",
}
"""Studies by name, each a module with a function `run`."""


def lab(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(LABS)}.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the table, the plots and the numbers.")] = Path("runs/lab"),
    as_json: Json = False,
) -> None:
    """Run one of the studies behind the product, and write its table and plots."""
    if name not in LABS:
        raise ConfigError(f"{name!r} is not a study", f"`finetune lab NAME` knows {', '.join(LABS)}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a folder", "name a folder, or none for runs/lab")
    study = importlib.import_module(LABS[name]).run()
    written = study.write(out)
    print_json(study.to_json()) if as_json else study.show(Console())
    say(f"wrote {path}" for path in written)


def doctor(as_json: Json = False) -> None:
    """This machine: device, driver, libraries, what will be slow or missing."""
    with importing():
        from finetune.doctor import examine, show

    findings = examine()
    print_json(findings) if as_json else show(findings, Console())


def schema() -> None:
    """JSON Schema of the configuration, for editors."""
    from finetune.config import json_schema

    print_json(json_schema())
