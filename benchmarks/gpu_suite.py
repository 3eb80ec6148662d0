"""Measures finetune on a GPU: the shipped 7B plan in 24 GiB, then predicted against measured memory over a grid.

    python benchmarks/gpu_suite.py --out DIR [--models DIR] [--budget-seconds 1500] [--only NAME ...] [--list]

Each line runs in a process of its own, so that running out of memory or time costs only that line, and leaves one file
in DIR; a line whose file is there is not run again. DIR also gets environment.json and table.md, kept up to date.
`--cpu-proof` runs the same lines on a processor, scaled down, to see that they work before a GPU is paid for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from environment import REPO, environment
from gpu_lines import Line, lines
from gpu_table import table

LEAST = 60
"""Seconds that must be left to begin a line: about what the shortest takes, imports included."""


def main() -> None:
    """Runs what is left to run, within the budget; prints the table."""
    options = _arguments()
    chosen = [line for line in lines() if not options.only or line.name in options.only]
    if options.list:
        print("\n".join(line.name for line in chosen))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n", encoding="utf-8")
    deadline = time.monotonic() + options.budget_seconds
    for number, line in enumerate(chosen, start=1):
        file = options.out / f"{line.name}.json"
        if file.exists():
            continue
        left = deadline - time.monotonic()
        if left < LEAST:
            print(
                f"the budget is spent before line {number} of {len(chosen)}; the same command goes on", file=sys.stderr
            )
            break
        run_line(line, file, left, options)
        _write_table(options.out, chosen)
    print(_write_table(options.out, chosen))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--models", type=Path, help="directory of NAME/config.json; the shipped ones where absent")
    parser.add_argument("--budget-seconds", type=float, default=1500, help="no line is begun or goes on after this")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="run these lines only")
    parser.add_argument("--list", action="store_true", help="print the names of the lines and stop")
    parser.add_argument("--cpu-proof", action="store_true", help="tiny shapes, two steps, float32, on the processor")
    return parser.parse_args()


def run_line(line: Line, file: Path, left: float, options: argparse.Namespace) -> None:
    """Runs one line; where it dies without a word, writes the word for it."""
    command = [sys.executable, Path(__file__).with_name("gpu_line.py"), line.name, file]
    command += ["--models", options.models] if options.models else []
    command += ["--cpu-proof"] if options.cpu_proof else []
    paths = filter(None, [str(REPO), os.environ.get("PYTHONPATH")])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=variables, timeout=min(left, line.timeout)
        )
        reason = None if done.returncode == 0 else f"exit code {done.returncode}: {_last_words(done.stderr)}"
    except subprocess.TimeoutExpired:
        # Cut off by the budget, it deserves another run; by its own limit, it does not.
        reason = f"took longer than {line.timeout} s" if left > line.timeout else None
    if reason and not file.exists():
        result = {"name": line.name, "model": line.model, "status": "failed", "reason": reason}
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{line.name}: {_status(file)}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _last_words(text: str) -> str:
    """The last line of what a process said, without this machine's paths."""
    last = (text.strip().splitlines() or ["no output"])[-1]
    return last.replace(str(REPO), ".").replace(sys.prefix, "…")[:500]


def _status(file: Path) -> str:
    if not file.exists():
        return "cut off by the budget"
    result = json.loads(file.read_text(encoding="utf-8"))
    return result["status"] + (f" ({result['reason']})" if "reason" in result else "")


def _write_table(out: Path, chosen: list[Line]) -> str:
    files = [out / f"{line.name}.json" for line in chosen]
    text = table([json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()])
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
