"""The chunks of a file, added up to one result."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import replace

import numpy as np

from finetune.data.chunks import Asked, Checked
from finetune.data.faults import count, count_of
from finetune.data.findings import CheckResult, Finding
from finetune.data.lines import BadLine, Ends, blank
from finetune.data.rules.copies import exact_copies, near_copies
from finetune.data.rules.fingerprints import Fingerprints


class Tally:
    """Takes in what is found in the chunks of a file, in order, and gives one result."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.lines = self.good = 0
        self.found: list[tuple[int, str, str]] = []
        self.bad: list[BadLine] = []
        self.ends = Ends()
        self.formats: Counter[str] = Counter()
        self.prints: list[Fingerprints] = []

    def add(self, checked: Checked) -> None:
        """Takes in the next chunk."""
        before = self.lines
        self.lines += checked.lines
        self.good += checked.good
        self.found += [(before + line, rule, detail) for line, rule, detail in checked.findings]
        self.bad += [replace(bad, line=before + bad.line) for bad in checked.bad]
        self.ends.marks += checked.ends.marks
        self.ends.crlf += checked.ends.crlf
        self.ends.blank += [before + line for line in checked.ends.blank]
        self.formats += checked.formats
        self.prints.append(replace(checked.prints, line=checked.prints.line + before))

    def result(self, name: str, *, lines: bool = True, copies_of_clean: bool = False) -> CheckResult:
        """The whole, by row; `lines`: whether rows are lines of the file; `copies_of_clean`: copies are sought only
        among rows without another finding, so that no row goes for the copy of one that goes too."""
        notes = self._notes()
        bad = sorted(self.bad + self._suspicious(), key=lambda one: one.line)
        single = self._unusual(notes)
        copies = self._copies({line for line, _, _ in single} if copies_of_clean else set())
        found = [*single, *((one.line, one.rule, one.detail) for one in bad), *copies]
        found.sort(key=lambda one: one[0])
        findings = [Finding(self._row(line), rule, detail, line if lines else None) for line, rule, detail in found]
        return CheckResult(name, self.good + len(bad), findings, bad, dict(self.formats.most_common()), notes)

    def _row(self, line: int) -> int:
        """The row of a line, from 0. Blank lines hold no row, but in a damaged file they hold its place."""
        return line - 1 - (0 if self.bad else bisect_left(self.ends.blank, line))

    def _notes(self) -> list[str]:
        """What is unusual and harmless."""
        notes = []
        if self.ends.marks:
            notes.append(f"{count_of(self.ends.marks, 'byte-order mark')}, left out")
        if self.ends.crlf:
            notes.append(f"{count_of(self.ends.crlf, 'line')} with CRLF at the end")
        if self.ends.blank and not self.bad:
            notes.append(f"{count(self.ends.blank, 'blank line')}, left out")
        if len(self.formats) > 1:
            kinds = ", ".join(f"{format} {number:,}" for format, number in self.formats.most_common())
            notes.append(f"rows of {len(self.formats)} formats ({kinds}): training wants one")
        return notes

    def _suspicious(self) -> list[BadLine]:
        """Blank lines of a damaged file, where rows may have been, but not those at its end."""
        blanks = set(self.ends.blank) if self.bad else set()
        last = self.lines
        while last in blanks:
            last -= 1
        return [blank(line) for line in blanks if line < last]

    def _unusual(self, notes: list[str]) -> list[tuple[int, str, str]]:
        """Findings of single rows. A column that is null in most rows is so by habit: a note, not a finding a row."""
        nulls = Counter(detail for _, rule, detail in self.found if rule == "null_field")
        usual = {detail: times for detail, times in nulls.items() if 2 * times > self.good}
        notes += [f"{detail} in {count_of(times, 'row')}: the usual way here" for detail, times in usual.items()]
        return [one for one in self.found if not (one[1] == "null_field" and one[2] in usual)]

    def _copies(self, apart: set[int]) -> list[tuple[int, str, str]]:
        """Findings about rows that are alike, but for the lines `apart`."""
        if not self.prints:
            return []
        prints, self.prints = Fingerprints.joined(self.prints), []
        if apart:
            prints = prints.where(~np.isin(prints.line, list(apart)))
        found = []
        if "exact_duplicate" in self.asked.rules:
            for copy, first in exact_copies(prints):
                found.append((copy, "exact_duplicate", f"the same as {self._name(prints, first)}"))
        if "near_duplicate" in self.asked.rules:
            for copy, better, alike in near_copies(prints):
                found.append((copy, "near_duplicate", f"{alike:.0%} of {self._name(prints, better)}"))
        return [(int(prints.line[copy]), rule, detail) for copy, rule, detail in found]

    def _name(self, prints: Fingerprints, index: int) -> str:
        return f"row {self._row(int(prints.line[index]))}"
