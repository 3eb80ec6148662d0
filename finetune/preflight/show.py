"""A verdict for people: a table, and a bar of what fills the card."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from finetune.preflight.prediction import ERRORS
from finetune.preflight.tape import (
    ADAPTERS,
    BATCH,
    CACHE,
    CHECKPOINTS,
    DEQUANTISED,
    GATHERED,
    GRADIENTS,
    HEAD,
    LAYER,
    OPTIMISER,
    WEIGHTS,
    WORKSPACE,
)
from finetune.preflight.verdict import Verdict
from finetune.spec import RunSpec

GIB = 2**30
BAR = 72
COLOURS = {
    WEIGHTS: "blue", ADAPTERS: "cyan", GRADIENTS: "bright_cyan", OPTIMISER: "magenta", CHECKPOINTS: "green",
    LAYER: "yellow", HEAD: "red", DEQUANTISED: "bright_blue", WORKSPACE: "bright_black", BATCH: "bright_black",
    CACHE: "bright_yellow", GATHERED: "bright_green",
}  # fmt: skip


def show(verdict: Verdict, console: Console) -> None:
    """Prints parameters, memory by cause, the bar, disk, time and the verdict."""
    spec, parameters = verdict.spec, verdict.spec.parameters
    share = parameters.trainable / parameters.total
    training, batch = spec.config.training, verdict.batch
    kind = "packed" if batch.packed else "answers, two to a pair," if training.method == "dpo" else "rows"
    lines = [
        f"[bold]{escape(spec.config.model.name_or_path)}[/bold] on {escape(spec.device.name)}",
        f"parameters  {parameters.total:,} in all, {parameters.quantized:,} in 4 bits, "
        f"{parameters.trainable:,} trained ({share:.2%})",
        f"micro batch {batch.rows} {kind} of {batch.tokens:,} tokens, "
        f"{training.gradient_accumulation_steps} to an update{_recomputed(spec)}"
        + (", priced as if layers were not compiled" if training.compile else ""),
    ]
    if training.online:
        sampled = batch.rows * training.gradient_accumulation_steps
        lines.append(
            f"rollout     {sampled} completions at once, {batch.tokens - batch.prompt_tokens:,} tokens behind prompts "
            f"of {batch.prompt_tokens:,}"
        )
    if (shards := spec.config.hardware.shards) > 1:
        lines.append(f"base        shared out among {shards} processes: what each of their cards takes")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_memory(verdict), highlight=False)
    console.print(_bar(verdict))
    for name, text in {"disk": _disk(verdict), "time": verdict.duration.words()}.items():
        console.print(escape(text if text.startswith(name) else f"{name}  {text}"), highlight=False, soft_wrap=True)
    _conclude(verdict, console)


def _recomputed(spec: RunSpec) -> str:
    """Said where not every layer is, which `checkpoints` in the table tells of."""
    some = f"{spec.recomputed_layers} of {spec.layers} layers" if spec.recomputed_layers else "nothing"
    return "" if spec.recomputed_layers == spec.layers else f", {some} recomputed"


def _memory(verdict: Verdict) -> Table:
    prediction, device = verdict.prediction, verdict.spec.device
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for cause, size in sorted(prediction.breakdown.items(), key=lambda item: -item[1]):
        table.add_row(f"[{COLOURS[cause]}]■[/] {cause}", _gib(size), f"{size / prediction.allocated:5.1%}")
    within = {name: f"± {error:.0%}" for name, error in ERRORS.items()} if device.kind == "cuda" else {}
    where = f"in the {prediction.phase} ({prediction.operation})"
    table.add_row(
        "[bold]allocated at peak[/bold]",
        f"[bold]{_gib(prediction.allocated)}[/bold]",
        _said(where, within.get("allocated")),
    )
    if device.kind == "cuda":
        table.add_row(
            "reserved", _gib(prediction.reserved), _said("with what torch's allocator keeps", within["reserved"])
        )
    beside = "with the CUDA context" if device.kind == "cuda" else "with Python and its libraries"
    table.add_row("process", _gib(prediction.process), _said(beside, within.get("process")))
    table.add_row("device", _gib(device.memory_bytes), "")
    return table


def _said(what: str, within: str | None) -> str:
    """`what` with the largest error that its figure has had against measured runs."""
    return f"{what}, {within}" if within else what


def _bar(verdict: Verdict) -> Text:
    """The device as a bar: each cause in its colour, what the allocator and the context take, and what is free."""
    prediction, device = verdict.prediction, verdict.spec.device
    scale = BAR / max(prediction.process, device.memory_bytes)
    bar, done = Text("│"), 0.0
    causes = sorted(prediction.breakdown.items(), key=lambda item: -item[1])
    for cause, size in [*causes, ("", prediction.process - prediction.allocated)]:
        width = round(done + size * scale) - round(done)
        bar.append(("█" if cause else "▒") * width, style=COLOURS.get(cause, "bright_black"))
        done += size * scale
    bar.append("·" * (BAR - round(done)), style="bright_black")
    bar.append("│")
    return bar


def _disk(verdict: Verdict) -> str:
    parts = ", ".join(
        f"{need.what} {need.bytes / GIB:.2f} GiB" for need in verdict.disk.needs if need.bytes >= GIB / 100
    )
    return parts or "next to nothing"


def _conclude(verdict: Verdict, console: Console) -> None:
    left = verdict.spec.device.memory_bytes - verdict.needed
    if verdict.fits:
        console.print(f"[bold green]fits[/bold green], {left / GIB:.2f} GiB to spare", highlight=False)
        return
    console.print("[bold red]does not fit[/bold red]", highlight=False)
    for line in [*verdict.problems, *verdict.advice]:
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def _gib(size: int) -> str:
    return f"{size / GIB:7.3f} GiB"
