"""How far is the preflight off? Predicts runs that other people measured, and compares.

    scripts/preflight-accuracy TRUTH.csv [--models DIR] [--json FILE]

Prints a line for each run and, by source and over all, median, 95th percentile and worst of the absolute errors of
allocated, reserved and process bytes. Runs with full logits and runs with a fused loss are counted apart: the latter
ran other kernels than ours. No GPU is needed, no weights, no network.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

from environment import environment
from measured_runs import (
    COLUMNS,
    FIGURES,
    LOSS_KERNELS,
    OPTIONAL,
    Row,
    Unusable,
    described,
    measured,
    name_of,
    read_table,
    source_of,
)

from finetune.errors import ConfigError, FinetuneError
from finetune.preflight.prediction import predict

Result = dict[str, Any]

GOALS = {
    ("full_logits", "allocated"): {"median": 0.005, "p95": 0.015, "worst": 0.03},
    ("full_logits", "process"): {"median": 0.03, "worst": 0.10},
    ("fused_linear", "allocated"): {"worst": 0.05},
}
"""Largest absolute errors allowed, by loss kernel and figure."""
EVERY = "all sources"
FUSED = """\
Rows with a fused loss ran other kernels than ours: Liger's fused linear loss, and FMS's Triton kernels for RMSNorm and
rotary embedding; ours are TRL's fused head and transformers' own norms. The losses hold one tile of logits at a time,
and the peak is elsewhere: in the backward pass of a layer. There transformers' two norms hold float32 copies of their
inputs, 8 bytes for each value of the residual stream (batch x tokens x hidden size). FMS's hold the inputs themselves,
in 16 bits, and the first of them is the checkpoint: 2 bytes. "without norms" is our error without those 6 bytes."""


def accuracy(table: Path, models: Path | None = None, *, tell: Any = lambda line: None) -> Result:
    """Predicts every usable row of `table`, with models from `models` (`models` beside the table where None).

    Gives `runs`, `skipped` (id and reason) and `summary`; `tell` hears each line of the table as its row is done.
    Raises ConfigError for a table or a directory that cannot be read.
    """
    rows = read_table(table)
    models = models or table.parent / "models"
    if not models.is_dir():
        raise ConfigError(f"{models}: no such directory", "name a directory of MODEL/config.json with --models")
    tell(_head())
    runs, skipped = [], []
    for number, row in enumerate(rows, start=1):
        try:
            runs.append(compare(row, models) | {"id": name_of(row, number)})
            tell(_run_line(runs[-1]))
        except Unusable as reason:
            skipped.append({"id": name_of(row, number), "reason": str(reason)})
            tell(f"skipped: {skipped[-1]['reason']}  {skipped[-1]['id']}")
    return {"runs": runs, "skipped": skipped, "summary": summarise(runs)}


def compare(row: Row, models: Path) -> Result:
    """Predicted and measured bytes of one row, and the errors where both are known. Raises Unusable."""
    facts = measured(row)
    predicted = _predicted(tuple((name, row.get(name, "")) for name in (*COLUMNS, *OPTIONAL)), models)
    errors = {figure: predicted[figure] / value - 1 for figure, value in facts.items() if value}
    result = {
        "source": row.get("source") or "unknown", "model": row["model"], "quantization": row["quantization"],
        "attention": row["attention"], "gpu": row["gpu"], "batch": [int(row["micro_batch_size"]), int(row["seq_len"])],
        "loss": LOSS_KERNELS[row["loss"]], "measured": facts, "errors": errors,
        "predicted": {figure: predicted[figure] for figure in FIGURES},
    }  # fmt: skip
    if result["loss"] == "fused_linear":
        result["without_norms"] = (predicted["allocated"] - predicted["norms"]) / facts["allocated"] - 1
    return result


@functools.cache  # tables repeat a run under several names
def _predicted(run: tuple[tuple[str, str], ...], models: Path) -> dict[str, int]:
    row = dict(run)
    spec, batch = described(row, models)
    try:
        found = predict(spec, batch, loop=source_of(row).loop(row))
    except Exception as error:  # one row must not cost the others
        reason = str(error).partition("\n")[0]
        raise Unusable(f"the trace failed, a fault of ours: {type(error).__name__}: {reason}") from error
    residual = batch.rows * batch.tokens * spec.model_config.get_text_config().hidden_size
    return {figure: getattr(found, figure) for figure in FIGURES} | {"norms": 6 * residual}


def summarise(runs: list[Result]) -> list[Result]:
    """Median, 95th percentile and worst absolute error by loss kernel, source and figure, where anything is known."""
    sources = [EVERY, *dict.fromkeys(run["source"] for run in runs)]
    found = []
    for loss, figure, source in itertools.product(LOSS_KERNELS.values(), FIGURES, sources):
        chosen = [run for run in runs if run["loss"] == loss and source in (EVERY, run["source"])]
        if errors := [abs(run["errors"][figure]) for run in chosen if figure in run["errors"]]:
            goal = GOALS.get((loss, figure), {}) if source == EVERY else {}
            line = {"loss": loss, "figure": figure, "source": source, "runs": len(errors)}
            found.append(line | _spread(errors) | {"goal": goal})
    return found


def _spread(errors: list[float]) -> dict[str, float]:
    high = errors[0] if len(errors) < 2 else statistics.quantiles(errors, n=20, method="inclusive")[-1]
    return {"median": statistics.median(errors), "p95": high, "worst": max(errors)}


def beyond(runs: list[Result]) -> list[tuple[str, float, Result]]:
    """Figure, error and run wherever an error is larger than the worst that GOALS allows."""
    return [
        (figure, run["errors"][figure], run)
        for (loss, figure), goal in GOALS.items()
        for run in runs
        if run["loss"] == loss and abs(run["errors"].get(figure, 0)) > goal["worst"]
    ]


def _run_line(run: Result) -> str:
    cells = []
    for figure in FIGURES:
        value, error = run["measured"][figure], run["errors"].get(figure)
        cells.append(f"{run['predicted'][figure]:>15,} {value:>15,} {error:>+8.2%}" if value else " " * 40)
    without = f"  (without norms {run['without_norms']:+.2%})" if "without_norms" in run else ""
    return f"{''.join(cells)}  {run['id']}{without}"


def _head() -> str:
    titles = "".join(f"{figure:>31} bytes   " for figure in FIGURES)
    columns = f"{'predicted':>15} {'measured':>15} {'error':>8}" * len(FIGURES)
    return f"{titles}\n{columns}  run"


def _report(result: Result) -> str:
    """What is printed when all rows are done."""
    lines = ["", f"{len(result['runs'])} runs predicted, {len(result['skipped'])} skipped"]
    for source in dict.fromkeys(run["source"] for run in result["runs"]):
        lines.append(f"{source}: {source_of({'source': source}).note}")
    for entry in result["summary"]:
        if entry["source"] == EVERY:
            wanted = ", ".join(f"{name} {value:.1%}" for name, value in entry["goal"].items())
            lines += ["", f"{entry['figure']}, {entry['loss']}" + (f" (goal: {wanted})" if wanted else "")]
            lines.append(f"{'runs':>6} {'median':>8} {'95th':>8} {'worst':>8}")
        errors = " ".join(f"{entry[name]:>8.2%}" for name in ("median", "p95", "worst"))
        lines.append(f"{entry['runs']:>6} {errors}  {entry['source']}")
    if any(run["loss"] == "fused_linear" for run in result["runs"]):
        lines += ["", FUSED]
    lines += [
        "",
        *(f"beyond the goal: {what} {error:+.2%}  {run['id']}" for what, error, run in beyond(result["runs"])),
    ]
    return "\n".join(lines).rstrip()


def main(arguments: list[str] | None = None) -> int:
    """Compares, prints, writes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="preflight-accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, metavar="TRUTH.csv", help="measured runs, one a row")
    parser.add_argument(
        "--models", type=Path, help="directory of MODEL/config.json; `models` beside the table if absent"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # the libraries' notices to their own callers
    try:
        if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
            raise ConfigError(f"{options.json}: cannot be written", "give --json a file in a directory that exists")
        result = accuracy(options.table, options.models, tell=functools.partial(print, flush=True))
        print(_report(result))
        if options.json:
            text = json.dumps({"environment": environment(), **result}, indent=1)
            options.json.write_text(text + "\n", encoding="utf-8")
    except FinetuneError as error:
        print(f"error: {error.message}", f"hint: {error.hint}", sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
