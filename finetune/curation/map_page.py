"""A map of rows as one HTML page that needs nothing else: no network, no library.

Texts of rows are data that nobody vouches for. They are JSON inside the page, with every `<` escaped, and reach the
document as text alone; the page's own content policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).with_name("templates")

CUT = 400
"""Characters of a text that the page holds."""


@dataclass(frozen=True)
class Colouring:
    """A way to colour the points, and to filter them. `of` has the categories of each point, by index into `labels`;
    a point with several has the colour of the first that is shown. `ordered` categories go from low to high, and
    `quiet` ones are grey."""

    name: str
    labels: list[str]
    of: list[list[int]]
    ordered: bool = False
    quiet: tuple[int, ...] = ()


@dataclass(frozen=True)
class Points:
    """What the page shows of N rows: their numbers from 0, places (x and y within 0 and 1), texts, losses where there
    are any, and the ways to colour them."""

    rows: Sequence[int]
    x: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str]
    losses: Sequence[float | None]
    colourings: Sequence[Colouring]


def page(title: str, sentences: Sequence[str], points: Points, chosen: str) -> str:
    """The page; it opens with the colouring of the name `chosen`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("map.js", "map.css"))
    return environment.get_template("map.html").render(
        title=title, sentences=sentences, names=[colouring.name for colouring in points.colourings], chosen=chosen,
        script=script, style=style, script_hash=_hash(script), style_hash=_hash(style), data=as_json(points),
    )  # fmt: skip


def as_json(points: Points) -> str:
    """JSON that no HTML parser finds a tag in."""
    content = asdict(points) | {"texts": [text if len(text) <= CUT else text[:CUT] + "…" for text in points.texts]}
    written = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    """The name of an inline script or style in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
