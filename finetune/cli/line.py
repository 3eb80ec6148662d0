"""The run and what is said before it: train, preflight, plan."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune.cli.options import Config, Gpu, Json, Overrides, WithData, err, importing, print_json, say
from finetune.errors import RunDirError


def train(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest good checkpoint.")] = False,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Resume although data, libraries or configuration have changed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Stop before the first step, after the rehearsal.")] = False,
    as_json: Json = False,
) -> None:
    """Train an adapter: the whole line, from the configuration to the report."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    if resume:
        _require_own(config, Path(loaded.output_dir).expanduser())
    from finetune.processes import joined

    with joined(loaded) as processes:  # before torch looks for cards
        with importing():
            from finetune import pipeline

        options = {"resume": resume, "allow_drift": allow_drift, "dry_run": dry_run}
        report = pipeline.train(loaded, err, **options, processes=processes)
    if not processes.main:
        return
    if as_json:
        print_json(report)
    elif dry_run:
        say(["dry run: everything is ready; nothing was trained"])
    else:
        from finetune.report import headline

        run = Path(loaded.output_dir).expanduser()
        say([headline(run), f"report: {run / 'report.html'}"])
        print(run)


def _require_own(config: Path, run: Path) -> None:
    """Raises RunDirError for the configuration of one run, moved perhaps, that would go on with another."""
    if (config.parent / "receipt.json").exists() and config.parent.resolve() != run.resolve():
        raise RunDirError(
            f"{config} is of the run beside it, but its output_dir is {run}",
            f"go on with that run by output_dir={shlex.quote(str(config.parent))}",
        )


def preflight(
    config: Config,
    overrides: Overrides = None,
    gpu: Gpu = None,
    most: Annotated[
        str | None, typer.Option("--max", help="Print the largest seq_len or micro_batch_size that fits, and leave.")
    ] = None,
    data: WithData = False,
    examples: Annotated[int | None, typer.Option(min=1, help="Number of training rows, for the time in all.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add the sum that a person can check by hand, and why what is float32 is.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Will it fit? Without a GPU and without weights."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    with importing():
        from finetune import pipeline
        from finetune.preflight import closed_form, show, wide

    if most is not None:
        found = pipeline.solve_for(loaded, gpu, most)
        print_json(found) if as_json else print(found[most])
        return
    verdict = pipeline.look_ahead(loaded, gpu, with_data=data, examples=examples)
    print_json(verdict.to_json()) if as_json else show(verdict, Console())
    if explain and not as_json:
        print(closed_form.explain(verdict.spec, traced=verdict.prediction.allocated, batch=verdict.batch))
        print("", wide.listed(wide.float32_tensors(verdict.spec)), sep="\n")
    if not verdict.fits:
        raise typer.Exit(3)


def plan(
    config: Config,
    overrides: Overrides = None,
    gpu: Gpu = None,
    data: WithData = False,
    examples: Annotated[
        int | None, typer.Option(help="Number of training rows (packs where data.packing is on).")
    ] = None,
    noise_scale: Annotated[
        float | None, typer.Option(help="Gradient noise scale in rows, from the report of an earlier run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The whole plan of a run, with reasons: parameters, memory, updates, learning rate, operations, time."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    with importing():
        from finetune import pipeline
        from finetune.plan import show_plan

    made = pipeline.plan_ahead(loaded, gpu, with_data=data, examples=examples, noise_scale=noise_scale)
    print_json(made.to_json()) if as_json else show_plan(made, Console())
    if not made.verdict.fits:
        raise typer.Exit(3)
