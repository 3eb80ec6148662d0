"""Recall and precision of the rules of `data check` on rows with labelled defects, and false alarms on other data.

    python benchmarks/rules_messy.py LABELLED.jsonl [OTHER ...] [--json benchmarks/results/rules_messy.json]

A labelled row names its defect under `defect`, null where it has none, and under `src` where it came from. Of two rows
that are the same, byte for byte, no rule can tell which one was called the copy: the pair counts once, as found where
either row is flagged as a copy of the other. The table also has the count row by row (`strict`). The result has
figures alone, no text of a row. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from finetune.data.check import check_file
from finetune.data.findings import CheckResult

KINDS = {
    "attached_media": {"missing_media"},
    "chat_template_leak": {"template_tokens"},
    "empty_output": {"untrainable"},
    "exact_duplicate": {"exact_duplicate"},
    "html_residue": {"markup_residue"},
    "merged_record": {"merged_record"},
    "mojibake": {"mojibake"},
    "near_duplicate": {"near_duplicate"},
    "no_input_placeholder": {"placeholder_input"},
    "no_output_placeholder": {"placeholder_output"},
    "null_field": {"null_field", "untrainable"},
    "overlong": {"too_long"},
    "pii": {"personal_data"},
    "refusal_boilerplate": {"refusal"},
    "repetition_loop": {"loop"},
    "url_only_input": {"url_only_input"},
}
"""Defects that rules can find, and the rules that find each."""

LIMITS = {"recall": 0.95, "precision": 0.95, "clean_flagged": 0.02}


def main() -> None:
    """Checks, prints the table, writes; exits with 1 where a limit is missed."""
    options = _arguments()
    result = score(options.labelled)
    result["other_data"] = {f"{path.parent.name}/{path.name}": false_alarms(path) for path in options.other}
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    total = result["all"]
    low = any(total[name] < LIMITS[name] for name in ("recall", "precision"))
    sys.exit("a limit is missed" if low or total["clean_flagged"] > LIMITS["clean_flagged"] else 0)


def score(path: Path) -> dict[str, Any]:
    """Recall and precision of each kind and of all, and the share of clean rows that is flagged."""
    labels = [json.loads(line)["defect"] for line in path.open(encoding="utf-8")]
    checked = check_file(path)
    strict = _said(checked)
    said = _by_pair(checked, strict, labels)
    kinds = {kind: _kind(kind, rules, labels, said) for kind, rules in KINDS.items()}
    return {
        "rows": len(labels),
        "clean": labels.count(None),
        "kinds": kinds,
        "all": _total(labels, said),
        "strict": _total(labels, strict),
    }


def false_alarms(path: Path) -> dict[str, Any]:
    """How many rows of data that nobody labelled are flagged, by rule."""
    checked = check_file(path)
    share = len(checked.flagged) / checked.rows
    return {"rows": checked.rows, "flagged": round(share, 4), "rules": checked.counts}


def table(result: dict[str, Any]) -> str:
    """The kinds as Markdown."""
    lines = ["| defect | rows | recall | precision |", "|---|---:|---:|---:|"]
    for kind, one in result["kinds"].items():
        lines.append(f"| {kind} | {one['rows']} | {one['recall']:.3f} | {one['precision']:.3f} |")
    for name in ("all", "strict"):
        one = result[name]
        lines.append(f"| {name} | {one['rows']} | {one['recall']:.3f} | {one['precision']:.3f} |")
    lines += ["", "| clean rows | flagged | flagged, strict |", "|---:|---:|---:|"]
    flagged = [f"{result[name]['clean_flagged']:.1%}" for name in ("all", "strict")]
    return "\n".join([*lines, f"| {result['clean']} | {' | '.join(flagged)} |"])


def _said(checked: CheckResult) -> list[set[str]]:
    """The rules that flag each row."""
    said: list[set[str]] = [set() for _ in range(checked.rows)]
    for finding in checked.findings:
        said[finding.row].add(finding.rule)
    return said


def _by_pair(checked: CheckResult, strict: list[set[str]], labels: list[str | None]) -> list[set[str]]:
    """As `strict`, the flag of an exact copy on the row that is called so, where it fell on its twin."""
    said = [set(rules) for rules in strict]
    for finding in checked.findings:
        if finding.rule == "exact_duplicate":
            first = int(re.search(r"row (\d+)", finding.detail)[1])
            if labels[first] == finding.rule and labels[finding.row] is None:
                said[finding.row].discard(finding.rule)
                said[first].add(finding.rule)
    return said


def _kind(kind: str, rules: set[str], labels: list[str | None], said: list[set[str]]) -> dict[str, float]:
    gold = [label == kind for label in labels]
    # A rule that finds two kinds is right on both.
    right = {other for other, others in KINDS.items() if others & rules}
    found = [bool(rules & named) for named in said]
    hits = sum(a and b for a, b in zip(gold, found, strict=True))
    true = sum(label in right for label, flag in zip(labels, found, strict=True) if flag)
    return {"rows": sum(gold), "recall": round(hits / sum(gold), 4), "precision": round(true / max(sum(found), 1), 4)}


def _total(labels: list[str | None], said: list[set[str]]) -> dict[str, float]:
    """A labelled row is found where a rule of its kind flags it; a flag is right on a row with any defect."""
    gold = [(label, named) for label, named in zip(labels, said, strict=True) if label in KINDS]
    flagged = [label for label, named in zip(labels, said, strict=True) if named]
    clean = Counter(label is None for label in flagged)
    return {
        "rows": len(gold),
        "recall": round(sum(bool(KINDS[label] & named) for label, named in gold) / len(gold), 4),
        "precision": round(clean[False] / len(flagged), 4),
        "clean_flagged": round(clean[True] / labels.count(None), 4),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labelled", type=Path)
    parser.add_argument("other", type=Path, nargs="*")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
