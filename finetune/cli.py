"""The command line: parse, call one function, print what it returns, or an error and its hint.

Results go to stdout, everything else to stderr. Imports no torch, so that `--help` comes at once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from finetune.errors import ConfigError, DataError, FinetuneError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
data_app = typer.Typer(no_args_is_help=True, help="Look at the data before it costs anything.")
app.add_typer(data_app, name="data")

err = Console(stderr=True)

INTERRUPTED = 130
"""What typer gives back for Ctrl-C where nothing catches it: outside the training loop."""

Config = Annotated[Path, typer.Argument(help="YAML configuration, such as configs/qlora_r16.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Keys to change: training.max_steps=20 lora.r=8.", show_default=False)
]
Run = Annotated[Path, typer.Argument(help="Run directory (the output_dir of a run).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

Gpu = Annotated[str | None, typer.Option(help="A card (RTX 4090, T4) or a size (24GiB); this machine's where absent.")]
WithData = Annotated[bool, typer.Option("--data", help="Read the data, and price the lengths that its rows have.")]

LABS = {"descent": "finetune.batching.descent_lab", "batch": "finetune.batching.batch_lab"}
"""Studies by name, each a module with a function `run`."""


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
        traceback.print_exc()
        _fail(
            f"unexpected {type(error).__name__}: {error}",
            "this is a fault of finetune; please report it with the trace above",
            1,
        )
    if code == INTERRUPTED:
        _fail("stopped", "", 5)
    sys.exit(code)


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest good checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Stop before the first step, after the rehearsal.")] = False,
    as_json: Json = False,
) -> None:
    """Train an adapter: the whole line, from the configuration to the report."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    from finetune import pipeline

    report = pipeline.train(loaded, err, resume=resume, dry_run=dry_run)
    if as_json:
        _print_json(report)
    elif dry_run:
        err.print("dry run: everything is ready; nothing was trained")
    else:
        from finetune.report import headline

        run = Path(loaded.output_dir).expanduser()
        err.print(
            headline(run), f"report: {run / 'report.html'}", sep="\n", markup=False, highlight=False, soft_wrap=True
        )
        print(run)


@app.command()
def preflight(
    config: Config,
    overrides: Overrides = None,
    gpu: Gpu = None,
    most: Annotated[
        str | None, typer.Option("--max", help="Print the largest seq_len or micro_batch_size that fits, and leave.")
    ] = None,
    data: WithData = False,
    examples: Annotated[int | None, typer.Option(min=1, help="Number of training rows, for the time in all.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add the sum that a person can check by hand.")] = False,
    as_json: Json = False,
) -> None:
    """Will it fit? Without a GPU and without weights."""
    from finetune.config import load_config

    loaded = load_config(config, overrides or [])
    from finetune import pipeline
    from finetune.preflight import closed_form, show

    if most is not None:
        found = pipeline.solve_for(loaded, gpu, most)
        _print_json(found) if as_json else print(found[most])
        return
    verdict = pipeline.look_ahead(loaded, gpu, with_data=data, examples=examples)
    _print_json(verdict.to_json()) if as_json else show(verdict, Console())
    if explain and not as_json:
        print(closed_form.explain(verdict.spec, traced=verdict.prediction.allocated, batch=verdict.batch))
    if not verdict.fits:
        raise typer.Exit(3)


@app.command()
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
    from finetune import pipeline
    from finetune.plan import show_plan

    made = pipeline.plan_ahead(loaded, gpu, with_data=data, examples=examples, noise_scale=noise_scale)
    _print_json(made.to_json()) if as_json else show_plan(made, Console())
    if not made.verdict.fits:
        raise typer.Exit(3)


@app.command()
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
    _print_json(study.to_json()) if as_json else study.show(Console())
    err.print(*(f"wrote {path}" for path in written), sep="\n", markup=False, highlight=False, soft_wrap=True)


@app.command("eval")
def evaluate(
    run: Run,
    data: Annotated[str | None, typer.Option(help="Another file or hub id to evaluate on.")] = None,
    as_json: Json = False,
) -> None:
    """Held-out loss of a trained run, in nats per trained token."""
    from finetune import pipeline

    result = pipeline.evaluate(run, data)
    if as_json:
        _print_json(result)
    else:
        print(f"{result['eval_loss']:.6f}")
        err.print(
            f"over {result['trained_tokens']:,} trained tokens in {result['rows']:,} rows of {result['source']}",
            highlight=False,
        )


@app.command()
def chat(
    run: Run,
    prompt: Annotated[str | None, typer.Option(help="Ask this, print the answer and leave.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
) -> None:
    """Talk to a trained run."""
    from finetune import pipeline

    reply = pipeline.open_chat(run, max_new_tokens)
    if prompt is not None:
        print(reply([{"role": "user", "content": prompt}]))
        return
    err.print("[dim]an empty line or Ctrl-D ends the conversation[/dim]")
    messages: list[dict[str, str]] = []
    while (text := _ask()) != "":
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": reply(messages)})
        print(messages[-1]["content"])


@app.command()
def report(run: Run) -> None:
    """Write report.md and report.html of a run again."""
    from finetune.report import RunDir, write_pages

    directory = RunDir.open(run).path
    write_pages(directory)
    print(directory / "report.html")


@app.command()
def doctor(as_json: Json = False) -> None:
    """This machine: device, driver, libraries, what will be slow or missing."""
    from finetune.doctor import examine, show

    findings = examine()
    _print_json(findings) if as_json else show(findings, Console())


@app.command()
def schema() -> None:
    """JSON Schema of the configuration, for editors."""
    from finetune.config import json_schema

    _print_json(json_schema())


@data_app.command("check")
def data_check(
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
        _print_json(findings.together(results))
    else:
        for result in results:
            findings.show(result, Console())
    if any(findings.refused(result) for result in results):
        raise typer.Exit(DataError.exit_code)


@data_app.command("preview")
def data_preview(
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
    for note in loaded_data.notes:
        err.print(note, markup=False, highlight=False, soft_wrap=True)
    out = Console()
    for title, text in preview(loaded_data, rows):
        out.rule(escape(title))
        out.print(text)


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _fail(message: str, hint: str, code: int) -> None:
    err.print(f"[bold red]error:[/bold red] {escape(message)}", highlight=False, soft_wrap=True)
    if hint:
        err.print(f"\n[bold cyan]hint:[/bold cyan] {escape(hint)}", highlight=False, soft_wrap=True)
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
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
