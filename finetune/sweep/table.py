"""The trials for people: one table, what there is to say about those that did not finish, and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.study import Plot, Table, markdown_table
from finetune.sweep.record import Record, Trial
from finetune.whole_file import replace_bytes, replace_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GIB = 2**30
MARKED = 5
"""Up to this number of different values, the axis is marked with each."""
WIDE = 10.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""


def table(record: Record) -> Table:
    """The trials, the best first; what is the same for all, or not known of any, has no column."""
    ranked = record.ranked()
    begun = any(trial.status not in ("waiting", "does not fit") for trial in ranked)
    keys = [key for key in ranked[0].values if len({str(trial.values[key]) for trial in ranked}) > 1]
    columns: dict[str, list[Any]] = {"trial": [trial.name for trial in ranked]}
    columns |= {
        name: [_shown(trial.values[key]) for trial in ranked] for name, key in zip(_short(keys), keys, strict=True)
    }
    if begun:
        columns[record.metric.removeprefix("eval_")] = [trial.metric for trial in ranked]
    columns["GiB"] = [trial.predicted_bytes and f"{trial.predicted_bytes / GIB:.2f}" for trial in ranked]
    if begun:
        columns["seconds"] = [trial.seconds and f"{trial.seconds:,.1f}" for trial in ranked]
    columns["status"] = ["fits" if trial.status == "waiting" and not begun else trial.status for trial in ranked]
    return Table("", list(columns), list(zip(*columns.values(), strict=True)))


def remarks(record: Record) -> Iterator[str]:
    """Why a trial has no figure, and what helps; those of one reason together."""
    same: dict[str, list[str]] = {}
    for trial in record.ranked():
        if trial.reason:
            same.setdefault(_why(trial), []).append(trial.name)
    for why, names in same.items():
        yield f"{', '.join(names)}: {why}"


def write_pages(record: Record) -> list[Path]:
    """Writes sweep.md and sweep.png beside sweep.json, and returns them. Raises OSError."""
    page, picture = record.path / "sweep.md", record.path / "sweep.png"
    parts = ["# Sweep", f"Held-out {record.metric}, the best first.", markdown_table(table(record))]
    lines = [f"- {line}" for line in remarks(record)]
    parts += ["\n".join(lines)] if lines else []
    if any(trial.metric is not None for trial in record.trials):
        replace_bytes(picture, plot(record).png())
        parts.append("![Held-out figure against each value that was tried](sweep.png)")
    replace_text(page, "\n\n".join(parts) + "\n")
    return [page, *([picture] if picture.exists() else [])]


def plot(record: Record) -> Plot:
    """The figure of each trial against each value that was tried, a panel for each key; the best one is ringed."""
    keys = [key for key in record.trials[0].values if len({str(trial.values[key]) for trial in record.trials}) > 1]
    keys = keys or list(record.trials[0].values)
    measured = [trial for trial in record.ranked() if trial.metric is not None]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
        for key, panel in zip(keys, panels, strict=True):
            _panel(panel, key, measured)
        panels[0].set_ylabel(f"held-out {record.metric.removeprefix('eval_')}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)

    return Plot("sweep", "Held-out figure against each value that was tried", draw, (1.0 + 3.0 * len(keys), 3.6))


def _panel(axes: Axes, key: str, measured: list[Trial]) -> None:
    places = _places(axes, [trial.values[key] for trial in measured])
    for status, marker in {"finished": "o", "stopped early": "x"}.items():
        chosen = [(x, trial.metric) for x, trial in zip(places, measured, strict=True) if trial.status == status]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), marker=marker, color="C0", label=status)
    if measured[0].status == "finished":
        axes.scatter(places[0], measured[0].metric, s=140, facecolors="none", edgecolors="C3", label="best")
    axes.margins(x=0.12)
    axes.set_xlabel(key)


def _places(axes: Axes, values: list[Any]) -> list[float]:
    """Where values stand on the axis, which is marked with them where they are few or no numbers."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    different = sorted(set(values)) if numbers else sorted({_shown(value) for value in values})
    places = list(values) if numbers else [different.index(_shown(value)) for value in values]
    if numbers and min(values) > 0 and max(values) / min(values) >= WIDE:
        axes.set_xscale("log")
    if not numbers or len(different) <= MARKED:
        axes.set_xticks(different if numbers else range(len(different)), [_shown(value) for value in different])
        axes.minorticks_off()
    return places


def _short(keys: list[str]) -> list[str]:
    """Keys without their section, where that leaves them apart."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return [name if last[name := key.rpartition(".")[2]] == 1 else key for key in keys]


def _shown(value: Any) -> str:
    """A value as a table has it: numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _why(trial: Trial) -> str:
    return "; ".join([f"{trial.status}, {trial.reason}", *trial.advice[:1]])
