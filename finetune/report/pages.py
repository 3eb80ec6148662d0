"""`report.md` and `report.html`: the same facts twice, rendered from a run directory."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.errors import RunDirError
from finetune.json_lines import parse_lines
from finetune.report import facts
from finetune.report.areas import predicted_memory
from finetune.report.curves import draw_curves
from finetune.report.schema import Preflight, Report
from finetune.whole_file import replace_text


def write_pages(run: Path) -> None:
    """Renders `report.json`, `metrics.jsonl` and `preflight.json` of a run into its `report.md` and `report.html`.

    Both pages are rendered before either is written, and each replaces its predecessor at once. The same files
    give the same bytes. Raises RunDirError where `report.json` is missing or malformed, or the pages cannot be written.
    """
    report = read_report(run)
    rows, unreadable = read_metrics(run / "metrics.jsonl")
    preflight, fault = read_preflight(run / "preflight.json")
    content = {
        "report": report,
        "title": facts.title(report),
        "subtitle": facts.subtitle(report),
        "sentence": facts.sentence(report),
        "figures": facts.figures(report),
        "tables": facts.tables(report),
        "curves": draw_curves(rows, report.memory.predicted_bytes, report.train.effective_batch_size),
        "memory": predicted_memory(preflight, report.memory.measured_bytes),
        "notes": [*report.notes, *_unreadable(unreadable), *fault],
        "chat": f"finetune chat {shlex.quote(str(run))}",
        "script": facts.plain_script(report, run),
    }
    pages = {name: _render(name, content) for name in ("report.md", "report.html")}
    for name, page in pages.items():
        _replace(run / name, page)


def headline(run: Path) -> str:
    """A finished run in one sentence. Raises RunDirError where `report.json` is missing or malformed."""
    return facts.sentence(read_report(run))


def read_report(run: Path) -> Report:
    """`report.json` of a run directory. Raises RunDirError where it is missing or malformed."""
    path = run / "report.json"
    text = _read(path)
    if text is None:
        raise RunDirError(
            f"{run}: holds no report.json",
            "name the directory of a finished run, or finish this one with `finetune train CONFIG --resume`",
        )
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        raise RunDirError(
            f"{path}: not a report of finetune: {_first(error)}",
            "it was changed or cut short after the run wrote it; put the original back, or train again",
        ) from None


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows of `metrics.jsonl`, none where there is no such file, and the number of lines that are not JSON objects."""
    return parse_lines(_read(path) or "")


def read_preflight(path: Path) -> tuple[Preflight, list[str]]:
    """`preflight.json`, an empty one where there is none or it is malformed, and a note of what is wrong with it."""
    text = _read(path)
    try:
        return Preflight() if text is None else Preflight.model_validate_json(text), []
    except ValidationError as error:
        return Preflight(), [f"preflight.json could not be read, its figures are left out: {_first(error)}"]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}"


def _read(path: Path) -> str | None:
    """The file's text, None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunDirError(
            f"{path}: cannot be read ({error.strerror})", "check what it is and who may read it"
        ) from None


def _unreadable(number: int) -> list[str]:
    if not number:
        return []
    return [
        f"{number:,} {'line' if number == 1 else 'lines'} of metrics.jsonl could not be read and left out of the curves"
    ]


def _render(name: str, content: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "fence": _fence}
    return environment.get_template(name).render(content)


def _cell(text: str) -> str:
    """Text that stays text in a Markdown table or list, on one line; an underscore within a word is no mark-up."""
    return re.sub(r"([\\`*<>\[\]|&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))


def _fence(text: str, language: str = "") -> str:
    """A Markdown code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _replace(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise RunDirError(
            f"{path}: cannot be written ({error.strerror})",
            "make room on the disk, or give the directory back its write permission",
        ) from None
