"""What a check found, as JSON or as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.data.contract import CONTRACT
from finetune.data.faults import count_of
from finetune.data.lines import LINE_FAULTS, BadLine
from finetune.data.rules.registry import ACROSS, FAULTS, RULES

EXAMPLES = 3
"""Findings of a rule that the table shows."""

DESCRIPTIONS = {
    **LINE_FAULTS,
    **FAULTS,
    **{name: rule.description for name, rule in RULES.items()},
    **ACROSS,
    **{name: rule.description for name, rule in CONTRACT.items()},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A defect: `row` counts from 0, and a bad line holds the place of a row; `rule` is its name. `line` counts from 1
    and is None in files that are not read by lines."""

    row: int
    rule: str
    detail: str
    line: int | None


@dataclass(frozen=True)
class CheckResult:
    """What was found in a file. `rows` counts good rows and bad lines: none is lost, each is kept or named."""

    name: str
    rows: int
    findings: list[Finding]
    bad_lines: list[BadLine]
    formats: dict[str, int]
    notes: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Findings by rule, the most frequent first."""
        return dict(Counter(finding.rule for finding in self.findings).most_common())

    @property
    def flagged(self) -> set[int]:
        """Rows with a finding."""
        return {finding.row for finding in self.findings}

    def to_json(self) -> dict[str, Any]:
        """The command's JSON: `rows` and `findings`; beside them the file, counts, formats and notes."""
        findings = []
        for finding in self.findings:
            place = {} if finding.line is None else {"line": finding.line}
            findings.append({"row": finding.row, "rule": finding.rule, "detail": finding.detail, **place})
        return {
            "file": self.name,
            "rows": self.rows,
            "findings": findings,
            "counts": self.counts,
            "rows_flagged": len(self.flagged),
            "bad_lines": len(self.bad_lines),
            "formats": self.formats,
            "notes": self.notes,
        }


def refused(result: CheckResult) -> bool:
    """Whether a run would refuse the file: it has lines that cannot be read, or rows that cannot be trained on."""
    return bool(result.bad_lines or FAULTS.keys() & result.counts.keys())


def together(results: list[CheckResult]) -> dict[str, Any]:
    """The command's JSON for several files: rows of all, and each finding with its file. One file's is its own."""
    if len(results) == 1:
        return results[0].to_json()
    each = [result.to_json() for result in results]
    return {
        "rows": sum(one["rows"] for one in each),
        "findings": [{"file": one["file"], **finding} for one in each for finding in one.pop("findings")],
        "files": each,
    }


def show(result: CheckResult, console: Console) -> None:
    """Prints notes and a table: each rule with what it means, how many rows it found and the first of them."""
    for note in result.notes:
        console.print(f"[dim]note:[/dim] {escape(note)}", soft_wrap=True)
    if not result.findings:
        console.print(f"{escape(result.name)}: {count_of(result.rows, 'row')}, nothing found", soft_wrap=True)
        return
    share = len(result.flagged) / result.rows
    title = (
        f"{escape(result.name)}: {len(result.flagged):,} of {count_of(result.rows, 'row')} ({share:.1%}) with a finding"
    )
    table = Table(title=title, title_justify="left", caption="rows count from 0", caption_justify="left")
    table.add_column("rule")
    table.add_column("rows", justify="right")
    table.add_column("such as")
    for rule, number in result.counts.items():
        first = [finding for finding in result.findings if finding.rule == rule][:EXAMPLES]
        examples = "\n".join(f"{_place(finding)}: {escape(finding.detail)}" for finding in first)
        table.add_row(f"{rule}\n[dim]{DESCRIPTIONS[rule]}[/dim]", f"{number:,}", examples)
    console.print(table)


def _place(finding: Finding) -> str:
    return f"row {finding.row:,}" if finding.line is None else f"row {finding.row:,} (line {finding.line:,})"
