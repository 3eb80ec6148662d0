"""The mask contract in `finetune data check CONFIG`: breaches among the findings, and masks to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rich.text import Text

from finetune.config import RunConfig
from finetune.data.contract import Breach
from finetune.data.faults import UNTRAINABLE
from finetune.data.findings import CheckResult, Finding, together
from finetune.data.load import Examined, examine
from finetune.data.preview import preview, shown
from finetune.errors import DataError
from finetune.spec import load_tokenizer, locate_model

SHOWN = 3
"""Rows of a rule, or of clean data, whose masks are shown."""


@dataclass(frozen=True)
class MaskCheck:
    """Results with breaches among their findings, and why a run refuses the data (None where it takes it).

    `examined` is None where rows could not be read as a run reads them.
    """

    config: RunConfig
    results: list[CheckResult]
    refusal: DataError | None
    examined: Examined | None

    @property
    def notes(self) -> list[str]:
        """What a run counts and accepts, and what of a stream was looked at."""
        return self.examined.notes(self.config.data) if self.examined else []

    def to_json(self) -> dict[str, Any]:
        """The command's JSON for a configuration."""
        refused = self.refusal.message if self.refusal else None
        return together(self.results) | {"contract": {"refused": refused, "notes": self.notes}}

    def masks(self) -> list[tuple[str, Text]]:
        """The first rows that break each rule, or the first rows where none is broken, as `preview` shows them."""
        if self.examined is None:
            return []
        tokenizer = self.examined.encoder.tokenizer
        rules: dict[str, list[Breach]] = {}
        for one in self.examined.contract.breaches:
            rules.setdefault(one.rule, []).append(one)
        first = [one for found in rules.values() for one in found[:SHOWN]]
        return [_mask(tokenizer, one) for one in first] or preview(tokenizer, self.examined.train, SHOWN)


def check_masks(config: RunConfig, results: list[CheckResult]) -> MaskCheck:
    """Looks at the rows that a run of this configuration would read, with its tokenizer and without its weights.

    Raises ConfigError where the tokenizer or a source cannot be had.
    """
    tokenizer = load_tokenizer(locate_model(config.model), config.data.chat_template)
    try:
        examined = examine(config, tokenizer)
    except DataError as error:
        return MaskCheck(config, results, error, None)
    results = [_with_breaches(result, examined.contract.breaches) for result in results]
    try:
        examined.require_fit(config.data)
    except DataError as error:
        return MaskCheck(config, results, error, examined)
    return MaskCheck(config, results, None, examined)


def _with_breaches(result: CheckResult, breaches: Iterable[Breach]) -> CheckResult:
    """The result with the breaches of its rows. Nothing is said twice: not that a row is no example where the contract
    names why, nor an empty turn, which is a rule of both."""
    here = {(one.index, one.rule, one.where): one for one in breaches if one.source == result.name}
    said = {(one.index, rule) for one in here.values() for rule in (one.rule, UNTRAINABLE)}
    kept = [one for one in result.findings if (one.row, one.rule) not in said]
    found = [Finding(one.index, one.rule, _detail(one), one.line) for one in here.values()]
    return replace(result, findings=sorted([*kept, *found], key=lambda one: one.row))


def _detail(one: Breach) -> str:
    """What is wrong with the row; a fault of the row itself also says what that is."""
    if one.row is None and one.fault.detail:
        return f"{one.fault.what}: {one.fault.detail}"
    return one.fault.detail or one.fault.what


def _mask(tokenizer: Any, one: Breach) -> tuple[str, Text]:
    title = f"{one.rule}: {one.fault.detail or one.fault.what}"
    if one.row is None:
        return title, Text(f"{one.where}: no tokens, for the row cannot be written")
    where, text = shown(tokenizer, one.where, one.row)
    return title, Text(f"{where}\n", style="italic") + text
