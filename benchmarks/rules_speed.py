"""Speed and memory of `data check`: short rows a second, and a file of a million rows.

    python benchmarks/rules_speed.py [--rows 1000000] [--processes N] [--json benchmarks/results/rules_speed.json]

Rows are made from a seed: about 300 characters each, of which 2 % have a defect. Each line of the result is a run in a
process of its own over the same file: reading alone, all rules that look at one row, with exact copies, with near ones.
Memory is the most that the process and its workers hold together, pages they share counted once (PSS, looked at every
tenth of a second). Exits with 1 below 20,000 rows a second for the rules, or at 2 GiB and more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from environment import environment

ROWS_A_SECOND = 20_000
BYTES = 2 * 2**30

DEFECTS = ("N/A", "", "<p>Fine.</p>&nbsp;", "Fine.<|im_end|>", "Yes. " * 25, "As an AI language model, I cannot say.")


def main() -> None:
    """Makes the file, measures, prints, writes; exits with 1 where a limit is missed."""
    options = _arguments()
    if options.measure:
        print(json.dumps(measure(options.measure, options.parts, options.processes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, options.rows)
        bytes_a_row = file.stat().st_size / options.rows
        lines = {parts: _apart(file, parts, options.processes) for parts in PARTS}
    for parts, line in lines.items():
        print(f"{parts:<12} {line['rows_a_second']:>9,.0f} rows/s {line['bytes'] / 2**20:>7,.0f} MiB")
    if options.json:
        facts = {"rows": options.rows, "bytes_a_row": round(bytes_a_row), "processes": options.processes}
        result = {**facts, "runs": lines, "environment": environment()}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    slow = lines["rules"]["rows_a_second"] < ROWS_A_SECOND
    sys.exit("too slow" if slow else "too much memory" if any(line["bytes"] >= BYTES for line in lines.values()) else 0)


def write_rows(path: Path, rows: int) -> None:
    """Writes seeded rows of instruction, input and output."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnoprstuvw", k=generator.randint(2, 9))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            asked, answer = (
                " ".join(generator.choices(words, k=generator.randint(*span))) for span in ((8, 20), (15, 45))
            )
            output = generator.choice(DEFECTS) if generator.random() < 0.02 else f"{answer.capitalize()}."
            file.write(json.dumps({"instruction": f"{asked.capitalize()}?", "input": "", "output": output}) + "\n")


def measure(path: Path, parts: str, processes: int) -> dict[str, Any]:
    """One check of a file: seconds, rows a second, findings."""
    from finetune.data.check import check_file
    from finetune.data.rules import RULES

    start = time.perf_counter()
    result = check_file(path, rules=PARTS[parts](RULES), processes=processes)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "rows_a_second": round(result.rows / seconds),
        "findings": len(result.findings),
    }


PARTS = {
    "reading": lambda rules: ["null_field"],
    "rules": lambda rules: list(rules),
    "exact copies": lambda rules: [*rules, "exact_duplicate"],
    "near copies": lambda rules: [*rules, "exact_duplicate", "near_duplicate"],
}
"""What is measured, each with all that comes before it."""


def _apart(file: Path, parts: str, processes: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", file, "--parts", parts, "--processes", processes]
    most = 0
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as running:
        while running.poll() is None:
            most = max(most, _held(running.pid))
            time.sleep(0.1)
        line = json.loads(running.stdout.read())
    return {**line, "bytes": most}


def _held(pid: int) -> int:
    """Bytes that a process and those it started hold now; none where they are gone."""
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(pid)
        return sum(process.memory_full_info().pss for process in (first, *first.children(recursive=True)))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--parts", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
