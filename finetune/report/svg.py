"""Figures as inline SVG, drawn by matplotlib.

Text stays text in the font of the page, and colours are CSS variables (`--paper`, `--ink`, `--weights`, ...: the keys
of `INK`), so that one figure serves light, dark and paper. The same plot gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW, SMALL = (860, 300), (380, 260), (400, 170)  # viewBox units; near CSS pixels where the figure is shown

# matplotlib writes colours as hex; these stand for the CSS variables of the same name.
VARIABLES = (
    "ink", "muted", "rule", "train", "held-out", "paper", "weights", "adapters", "optimiser", "gradients",
    "checkpoints", "layer-activations", "logits-and-loss", "dequantised-weight", "workspace", "batch", "kv-cache",
    "other",
)  # fmt: skip
INK = {name: "#" + f"{number:02x}" * 3 for number, name in enumerate(VARIABLES, 1)}

STYLE = {
    "svg.fonttype": "none",
    "path.simplify_threshold": 0.5,  # half a unit: a run of 20,000 steps stays a page of a few hundred kB
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the layout does not depend on the machine's fonts
    "font.size": 12,
    "text.color": INK["ink"],
    "axes.edgecolor": INK["rule"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.ymargin": 0.1,
    "grid.color": INK["rule"],
    "xtick.color": INK["muted"],
    "ytick.color": INK["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 8,
}


class Curve(NamedTuple):
    """A figure: `key` pairs a colour with the words beside its swatch; `narrow`, where given, is for phones."""

    name: str
    title: str
    summary: str
    key: list[tuple[str, str]]
    svg: str
    narrow: str = ""


def draw(name: str, size: tuple[int, int], plot: Callable[[Axes], None]) -> str:
    """An SVG element of `size` with what `plot` draws; `name` must differ from that of every other on a page."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    out, (width, height) = io.StringIO(), size
    with matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": f"{name} {width}"}]):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        axes = figure.subplots()
        axes.yaxis.set_major_locator(MaxNLocator(nbins=height // 40))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plot(axes)
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    return _inline(out.getvalue(), size)


def _inline(svg: str, size: tuple[int, int]) -> str:
    """What stands inside matplotlib's svg element, without what a page does not want of a file of its own."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", body)  # names of groups would stand twice in a page
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)  # a hundredth is enough
    body = re.sub(r" ?font-family: [^;\"]*;", "", body).replace("xlink:href", "href")
    for name, colour in INK.items():
        body = body.replace(colour, f"var(--{name})")
    return f'<svg viewBox="0 0 {size[0]} {size[1]}">' + re.sub(r"\s+", " ", body)
