"""What was trained: eval, chat, report."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune.cli.options import DataOverrides, Json, Run, err, print_json, say


def evaluate(
    run: Run,
    overrides: DataOverrides = None,
    data: Annotated[str | None, typer.Option(help="Another file or hub id to evaluate on.")] = None,
    as_json: Json = False,
) -> None:
    """Held-out loss of a trained run, in nats per trained token; of other methods margin, accuracy or reward."""
    from finetune import pipeline

    result = pipeline.evaluate(run, data, overrides or [])
    if as_json:
        print_json(result)
    else:
        found = {key.removeprefix("eval_"): value for key, value in result.items() if key.startswith("eval_")}
        for name, value in found.items():
            print(f"{value:.6f}" if list(found) == ["loss"] else f"{name} {value:.6f}")
        say([f"over {result['trained_tokens']:,} trained tokens in {result['rows']:,} rows of {result['source']}"])


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


def report(run: Run) -> None:
    """Write report.md and report.html of a run again."""
    from finetune.report import RunDir, write_pages

    directory = RunDir.open(run).path
    write_pages(directory)
    print(directory / "report.html")


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
