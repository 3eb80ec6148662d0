"""The curves of a run: what `metrics.jsonl` holds, over its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finetune.report.svg import INK, NARROW, SMALL, WIDE, Curve, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes


def draw_curves(
    rows: list[dict[str, Any]], predicted_bytes: int | None = None, effective_batch_size: int | None = None
) -> list[Curve]:
    """Every curve that the rows of `metrics.jsonl` allow; an empty list where there are none."""
    small = (
        ("learning_rate", "Learning rate", 1, None),
        ("grad_norm", "Gradient norm", 1, None),
        ("tokens_per_second", "Tokens per second", 1, None),
        ("memory_bytes", "Memory, GiB", 2**30, predicted_bytes),
    )
    learned = (
        ("margin", "Margin", 1, None),
        ("accuracy", "Share of pairs preferred rightly", 1, None),
        ("dead_groups", "Share of dead groups", 1, None),
        ("kl", "KL divergence from the base model, nats a token", 1, None),
        ("completion_length", "Completion, tokens", 1, None),
    )
    first = _reward(rows) or _loss(rows)
    singles = (_single(rows, *spec) for spec in (*learned, *small))
    curves = (first, *singles, _noise_scale(rows, effective_batch_size))
    return [curve for curve in curves if curve]


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Running mean over `width` points around each, over fewer at the ends; NaN counts for nothing."""
    import numpy as np

    kernel, present = np.ones(width), np.isfinite(values)
    total = np.convolve(np.where(present, values, 0.0), kernel, "same")
    number = np.convolve(present.astype(float), kernel, "same")
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0.5)


def series(rows: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `key` in step order; of a step written twice (a resumed run) the later counts.

    What is not finite becomes NaN, a gap in the line.
    """
    import numpy as np

    points = {row["step"]: row[key] for row in rows if _number(row.get("step")) and _number(row.get(key))}
    steps = sorted(points)
    values = np.array([float(points[step]) for step in steps])
    return np.array(steps), np.where(np.isfinite(values), values, np.nan)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _loss(rows: list[dict[str, Any]]) -> Curve | None:
    train, held_out = series(rows, "loss"), series(rows, "eval_loss")
    if not (_measured(train) or _measured(held_out)):
        return None
    width = 2 * min(len(train[0]) // 20, 50) + 1  # a tenth of a short run; odd, so that the mean is centred
    key = []
    if _measured(train):
        key.append(("train", "training" if width == 1 else f"training, mean over {width} points (faint: each)"))
    if _measured(held_out):
        key.append(("held-out", "held-out"))

    def plot(axes: Axes) -> None:
        _line(axes, *train, alpha=1 if width == 1 else 0.3)
        if width > 1:
            _line(axes, train[0], smooth(train[1], width))
        _points(axes, *held_out)

    summary = _summary(("Training loss", train), ("held-out loss", held_out))
    return Curve("loss", "Loss", summary, key, _svg("loss", WIDE, plot), _svg("loss", NARROW, plot))


def _reward(rows: list[dict[str, Any]]) -> Curve | None:
    """Mean reward of each update's completions with their spread, one standard deviation; and on held-out prompts."""
    import numpy as np

    (steps, values), held_out = series(rows, "reward"), series(rows, "eval_reward")
    if not (_measured((steps, values)) or _measured(held_out)):
        return None
    spread = dict(zip(*series(rows, "reward_std"), strict=True))
    width = np.array([spread.get(step, math.nan) for step in steps])

    def plot(axes: Axes) -> None:
        axes.fill_between(steps, values - width, values + width, color=INK["train"], alpha=0.2, linewidth=0)
        _line(axes, steps, values)
        _points(axes, *held_out)

    key = [("train", "training, with its spread"), *([("held-out", "held-out")] if _measured(held_out) else [])]
    summary = _summary(("Reward", (steps, values)), ("held-out reward", held_out))
    return Curve("reward", "Reward", summary, key, _svg("reward", WIDE, plot), _svg("reward", NARROW, plot))


def _single(rows: list[dict[str, Any]], name: str, title: str, unit: float, predicted: float | None) -> Curve | None:
    import numpy as np

    steps, values = series(rows, name)
    if not _measured((steps, values)):
        return None

    def plot(axes: Axes) -> None:
        _line(axes, steps, values / unit)
        if predicted is not None:
            axes.axhline(predicted / unit, color=INK["held-out"], linewidth=1.4, dashes=(4, 3))
        axes.set_ylim(bottom=min(0, np.nanmin(values) / unit))

    key = [("train", "measured peak so far"), ("held-out", "predicted peak")] if predicted is not None else []
    return Curve(name, title, _summary((title, (steps, values / unit))), key, _svg(name, SMALL, plot))


def _noise_scale(rows: list[dict[str, Any]], size: int | None) -> Curve | None:
    """The noise scale with its 95 % interval, beside the batch that was taken; an end that is missing is unbounded."""
    import numpy as np

    name, title = "noise_scale", "Gradient noise scale, rows"
    steps, low = series(rows, f"{name}_low")
    values, highs = (dict(zip(*series(rows, key), strict=True)) for key in (name, f"{name}_high"))
    value = np.array([values.get(step, math.nan) for step in steps])
    if not _measured((steps, value)):
        return None
    top = 1.3 * max(np.nanmax(value), size or 0)
    high = np.array([min(highs.get(step, top), top) for step in steps])

    def plot(axes: Axes) -> None:
        axes.fill_between(steps, low, high, color=INK["train"], alpha=0.2, linewidth=0)
        _line(axes, steps, value)
        if size:
            axes.axhline(size, color=INK["held-out"], linewidth=1.4, dashes=(4, 3))
        axes.set_ylim(0, top)

    key = [("train", "with its 95 % interval"), *([("held-out", "effective batch")] if size else [])]
    return Curve(name, title, _summary((title, series(rows, name))), key, _svg(name, SMALL, plot))


def _measured(points: tuple[np.ndarray, np.ndarray]) -> bool:
    return any(math.isfinite(value) for value in points[1])


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, alpha: float = 1) -> None:
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, color=INK["train"], linewidth=1.6, alpha=alpha, marker=marker, markersize=4)


def _points(axes: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    """Held-out loss: points, the first and the last with their value."""
    style = {"color": INK["held-out"], "zorder": 3}
    axes.plot(steps, values, linewidth=1, marker="o", markersize=5.5, **style)
    ends = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    behind = {"facecolor": INK["paper"], "edgecolor": "none", "alpha": 0.8, "pad": 1}
    for at, side in {ends[0]: "left", ends[-1]: "right"}.items() if ends else ():
        words = f"{at[1]:.2f}"
        axes.annotate(words, at, (0, 8), textcoords="offset points", ha=side, weight="bold", bbox=behind, **style)


def _summary(*named: tuple[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Where each series starts and ends, in words."""
    return "; ".join(
        f"{name} {values[0]:.4g} at step {steps[0]:g}, {values[-1]:.4g} at step {steps[-1]:g}"
        for name, (steps, values) in named
        if len(steps)
    )


def _svg(name: str, size: tuple[int, int], plot: Callable[[Axes], None]) -> str:
    """What `plot` draws, over an axis of whole steps."""
    from matplotlib.ticker import MaxNLocator

    def over_steps(axes: Axes) -> None:
        plot(axes)
        corner, below_left = (0, 0), (-7, -8)  # left of the tick labels, so that the word costs no line of its own
        axes.annotate(
            "step", corner, below_left, "axes fraction", "offset points", ha="right", va="top", color=INK["muted"]
        )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=size[0] // 70, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return draw(name, size, over_steps)
