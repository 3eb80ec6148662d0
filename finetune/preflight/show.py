"""A verdict for people: a table, and a bar of what fills the card."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.preflight.verdict import Verdict

GIB = 2**30
BAR = 60


def show(verdict: Verdict, console: Console) -> None:
    """Prints parameters, memory by cause, the bar and the verdict."""
    spec, prediction, parameters = verdict.spec, verdict.prediction, verdict.spec.parameters
    share = parameters.trainable / parameters.total
    console.print(
        f"[bold]{escape(spec.config.model.name_or_path)}[/bold] on {escape(spec.device.name)}", highlight=False
    )
    console.print(
        f"parameters  {parameters.total:,} in all, {parameters.quantized:,} in 4 bits, "
        f"{parameters.trainable:,} trained ({share:.2%})",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for cause, size in sorted(prediction.breakdown.items(), key=lambda item: -item[1]):
        blocks = "█" * max(1, round(BAR * size / max(prediction.process, verdict.spec.device.memory_bytes)))
        table.add_row(cause, f"{size / GIB:7.3f} GiB", f"[cyan]{blocks}[/cyan]")
    table.add_row(
        "[bold]allocated at peak[/bold]",
        f"[bold]{prediction.allocated / GIB:7.3f} GiB[/bold]",
        f"in the {prediction.phase}",
    )
    on_card = spec.device.kind == "cuda"
    if on_card:
        table.add_row("reserved", f"{prediction.reserved / GIB:7.3f} GiB", "with what torch's allocator keeps")
    beside = "with the CUDA context" if on_card else "with Python and its libraries"
    table.add_row("process", f"{prediction.process / GIB:7.3f} GiB", beside)
    table.add_row("device", f"{spec.device.memory_bytes / GIB:7.3f} GiB", "")
    console.print(table, highlight=False)
    if verdict.fits:
        console.print(f"[bold green]fits[/bold green], {_left(verdict) / GIB:.2f} GiB to spare", highlight=False)
    else:
        console.print(f"[bold red]does not fit[/bold red], {-_left(verdict) / GIB:.2f} GiB short", highlight=False)
    for line in [] if verdict.fits else verdict.advice:
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def _left(verdict: Verdict) -> int:
    return verdict.spec.device.memory_bytes - verdict.prediction.process
