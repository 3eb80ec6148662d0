"""A supporting study: what it asked, its tables, plots and findings; how they are shown and written.

Toolkits make studies, `finetune lab NAME` runs them. Torch is not imported here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "finetune",  # the same plot gives the same bytes
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the layout does not depend on the machine's fonts
    "font.size": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are shown with four significant digits, integers whole. `name` is that of its
    place on a page, STUDY-NAME, empty where it has none."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    name: str = ""


@dataclass(frozen=True)
class Plot:
    """A picture: `draw` fills a figure of `size` inches."""

    name: str
    title: str
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (8.0, 4.0)

    def svg(self) -> str:
        """The picture as an SVG file."""
        import io

        out = io.StringIO()
        self._save(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return out.getvalue()

    def png(self) -> bytes:
        """The picture as a PNG file, 150 dots an inch."""
        import io

        out = io.BytesIO()
        self._save(out, format="png", dpi=150)
        return out.getvalue()

    def _save(self, out: Any, **how: Any) -> None:
        import matplotlib.style
        from matplotlib.figure import Figure

        with matplotlib.style.context(["default", STYLE]):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure)
            figure.savefig(out, **how)


@dataclass(frozen=True)
class Study:
    """The outcome of a study. `numbers` are what its page and tests read; everything in them is JSON."""

    name: str
    question: str
    settings: dict[str, Any]
    numbers: dict[str, Any]
    tables: list[Table]
    findings: list[str]
    plots: list[Plot] = field(default_factory=list, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The object that `finetune lab NAME --json` prints."""
        return {
            "name": self.name, "question": self.question, "settings": self.settings, "numbers": self.numbers,
            "findings": self.findings,
        }  # fmt: skip

    def show(self, console: Console) -> None:
        """Prints the question, the tables and the findings."""
        from rich.table import Table as Grid

        console.print(self.question, markup=False, highlight=False)
        for table in self.tables:
            grid = Grid(title=table.title, title_justify="left", box=None, header_style="bold", pad_edge=False)
            for column in table.columns:
                grid.add_column(column, justify="left" if column == table.columns[0] else "right")
            for row in table.rows:
                grid.add_row(*(shown(value) for value in row))
            console.print("", grid)
        console.print("", *(f"- {finding}" for finding in self.findings), sep="\n", markup=False, highlight=False)

    def write(self, folder: Path) -> list[Path]:
        """Writes NAME.json, NAME.md with the tables, and an SVG for each plot; returns what it wrote."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {f"{self.name}.json": json.dumps(self.to_json(), indent=1) + "\n", f"{self.name}.md": self.markdown()}
        files |= {f"{self.name}-{plot.name}.svg": plot.svg() for plot in self.plots}
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name in files]

    def markdown(self) -> str:
        """Question, tables, plots and findings as a page."""
        parts = [f"# {self.question}"]
        parts += [f"## {table.title}\n\n{markdown_table(table)}" for table in self.tables]
        parts += [f"![{plot.title}]({self.name}-{plot.name}.svg)" for plot in self.plots]
        parts.append("\n".join(f"- {finding}" for finding in self.findings))
        return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown, first column to the left."""
    lines = [list(table.columns), ["---", *["---:"] * (len(table.columns) - 1)]]
    lines += [[shown(value) for value in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """A value as tables show it: integers with thousands separated, other numbers with four significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
