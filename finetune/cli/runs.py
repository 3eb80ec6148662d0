"""What was trained: eval, chat, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from finetune.cli.options import DataOverrides, Json, Run, err, importing, print_json, say
from finetune.errors import ConfigError

FIGURES = {
    "separation": "sense separation",
    "accuracy": "nearest sense",
    "pairs": "pairs",
    "loss": "loss a token",
}
"""Figures of the forgetting check, as they are shown."""


def evaluate(
    run: Run,
    overrides: DataOverrides = None,
    data: Annotated[str | None, typer.Option(help="Another file or hub id to evaluate on.")] = None,
    forgetting: Annotated[
        bool, typer.Option("--forgetting", help="Instead: what training did to the meaning of words.")
    ] = False,
    rows: Annotated[
        Path | None, typer.Option(help="With --forgetting: marked rows of your own, as `senses fit` takes them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Held-out loss of a trained run, in nats per trained token; of other methods margin, accuracy or reward."""
    if forgetting:
        _forgetting(run, [*(["--data"] if data else []), *(overrides or [])], rows, as_json)
        return
    if rows:
        raise ConfigError(f"--rows {rows}: are for the forgetting check", "add --forgetting")
    with importing():
        from finetune import pipeline

    result = pipeline.evaluate(run, data, overrides or [])
    if as_json:
        print_json(result)
    else:
        found = {key.removeprefix("eval_"): value for key, value in result.items() if key.startswith("eval_")}
        for name, value in found.items():
            print(f"{value:.6f}" if list(found) == ["loss"] else f"{name} {value:.6f}")
        say([f"over {result['trained_tokens']:,} trained tokens in {result['rows']:,} rows of {result['source']}"])


def _forgetting(run: Path, unused: list[str], rows: Path | None, as_json: bool) -> None:
    if unused:
        hint = "leave it out; --rows FILE takes marked rows of your own"
        raise ConfigError(f"{unused[0]}: --forgetting reads no data of the run", hint)
    with importing():
        from finetune import pipeline

    found = pipeline.forgetting(run, rows)
    print_json(found) if as_json else _show_forgetting(found, Console())


def _show_forgetting(found: dict[str, Any], console: Console) -> None:
    if "change" in found:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "base", "tuned", "change", "95 % interval", "limit", ""):
            table.add_column(column, justify="right" if column else "left")
        for key, name in FIGURES.items():
            base, tuned = found["base"][key], found["tuned"][key]
            if base is None:
                continue
            change = found["change"].get(key, [tuned - base])
            interval = f"{change[1]:+.3f} to {change[2]:+.3f}" if len(change) > 1 else ""
            limit = f"{found['limits'][key]:+.2f}" if key in found["limits"] else ""
            judged = found["verdicts"].get(key, "")
            table.add_row(name, f"{base:.3f}", f"{tuned:.3f}", f"{change[0]:+.3f}", interval, limit, judged)
        console.print(table)
    reason = f": {found['reason']}" if "reason" in found else ""
    over = f"{found['rows']:,} rows of {found['words']:,} words ({found['source']})"
    print(f"{found['verdict']}{reason}")
    say([f"over {over}; forgotten: an interval wholly beyond its limit; kept: every one within"])


def chat(
    run: Run,
    prompt: Annotated[str | None, typer.Option(help="Ask this, print the answer and leave.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
) -> None:
    """Talk to a trained run."""
    with importing():
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


def export(
    run: Run,
    merged: Annotated[bool, typer.Option("--merged", help="Merge the adapter into the base, as a directory.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="The same, and as one file for llama.cpp in it.")] = False,
    gguf_adapter: Annotated[
        bool, typer.Option("--gguf-adapter", help="The adapter alone for llama.cpp, as RUN/adapter.gguf.")
    ] = False,
    base: Annotated[
        Literal["auto", "16bit", "dequantized"],
        typer.Option(help="Merge into the published base, or as training saw it; auto takes the better."),
    ] = "auto",
    output: Annotated[Path | None, typer.Option(help="Directory to write; RUN/merged where absent.")] = None,
    push: Annotated[str | None, typer.Option(help="Upload it to the hub as USER/NAME, private.")] = None,
    as_json: Json = False,
) -> None:
    """Merge what was trained, prove that it says the same, and write it for other programs."""
    if not (merged or gguf or (gguf_adapter and not push)):
        hint = "add --merged, or --gguf; the adapter itself is in the run's directory adapter/"
        raise ConfigError(f"export {run}: nothing to write was named", hint)
    with importing():
        from finetune import exporting

    found = {"adapter": str(exporting.export_adapter(run))} if gguf_adapter else {}
    if merged or gguf:
        found |= exporting.export(run, gguf=gguf, base=base, output=output, say=lambda line: say([line]))
    if push:
        found["url"] = exporting.push(Path(found["directory"]), push)
    print_json(found) if as_json else print(found.get("url") or found.get("directory") or found["adapter"])


def report(run: Run) -> None:
    """Write report.md and report.html of a run again."""
    with importing():
        from finetune.report import RunDir, write_pages

    directory = RunDir.open(run).path
    write_pages(directory)
    print(directory / "report.html")


def verify(run: Run, as_json: Json = False) -> None:
    """Check the receipt of a run: adapter, configuration, checkpoints, data, template, tokenizer, model."""
    with importing():
        from finetune.verify import verify as look

    found = look(run)
    print_json(found) if as_json else _show_checks(found, Console())
    if not found["good"]:
        raise typer.Exit(2)


def verify_resume(run: Run, as_json: Json = False) -> None:
    """Prove on this machine, with two short runs, that this run resumes to the bit."""
    with importing():
        from finetune.verify import verify_resume as prove

    found = prove(run)
    if as_json:
        print_json(found)
    elif found["exact"]:
        print(f"exact: {found['updates']} updates, interrupted and resumed, give the same bits")
    else:
        print(f"not exact: {len(found['differs'])} things differ, the first is {found['differs'][0]}")
        cause = found["cause"]
        print(f"not deterministic: {cause['operation']} in {cause['module']}" if cause else "each operation is exact")
    if not found["exact"]:
        raise typer.Exit(1)


def _show_checks(found: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in found["checks"]:
        table.add_row(check["state"], check["name"], check["detail"])
    console.print(table)
    for entry in found["drift"]:
        say([f"drift allowed from update {entry['from_step']}: {'; '.join(entry['changed'])}"])
    print("good" if found["good"] else "not as the receipt says")


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
