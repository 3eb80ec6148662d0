"""What `finetune eval --forgetting` says of three short runs of the quickstart, from careful to reckless.

    python benchmarks/forgetting.py [CONFIG] [--json benchmarks/results/forgetting.json]

Each run is `finetune train` on configs/quickstart.yaml with RUNS and SHORT over it, then the check on the program's own
sentences. docs/forgetting.md has the table, which scripts/update_docs.py writes from the committed result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import environment

REPO = Path(__file__).resolve().parents[1]
RESULT = REPO / "benchmarks" / "results" / "forgetting.json"
RUNS = [(8, 1e-3), (12, 5e-3), (12, 3e-2)]
"""Updates and learning rate."""

SHORT = ["data.max_length=256", "data.eval=null", "training.rehearsal=false", "training.sample_answers=0"]
"""What is not measured here is kept small or left out: sequences, held-out rows, answers."""


def main() -> None:
    """Runs, prints, writes."""
    options = _arguments()
    found = {"overrides": SHORT, "runs": [run(options.config, *one) for one in RUNS], "environment": environment()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run(config: Path, steps: int, rate: float) -> dict[str, Any]:
    """The answer of the check on one run, and the seconds that both took."""
    changed = [f"training.max_steps={steps}", f"training.learning_rate={rate:.1e}"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        finetune("train", config, *SHORT, *changed, f"output_dir={folder}/run")
        trained = time.perf_counter()
        answer = json.loads(finetune("eval", f"{folder}/run", "--forgetting", "--json"))
    seconds = {"train": trained - started, "check": time.perf_counter() - trained}
    print(steps, rate, answer["change"], answer["verdict"], flush=True)
    return {"steps": steps, "learning_rate": rate, "seconds": seconds, **answer}


def finetune(*arguments: object) -> str:
    """What a command prints on standard output."""
    command = [sys.executable, "-m", "finetune.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, cwd=REPO, stdout=subprocess.PIPE, text=True).stdout


def table() -> str:
    """The committed result as Markdown: both figures that decide, with the interval of their change."""
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]
    lines = ["| run | sense separation | loss a token | verdict |", "|---|---|---|---|"]
    return "\n".join([*lines, *map(row, runs)])


def row(one: dict[str, Any]) -> str:
    """The line of one run."""
    learning = f"{one['steps']} updates at a learning rate of {one['learning_rate']:g}"
    figures = [changed(one, name, digits) for name, digits in (("separation", 3), ("loss", 2))]
    return f"| {' | '.join([learning, *figures, one['verdict']])} |"


def changed(one: dict[str, Any], name: str, digits: int) -> str:
    """A figure of base and tuned model, and the interval of its change."""
    low, high = (f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in one["change"][name][1:])
    return f"{one['base'][name]:.{digits}f} to {one['tuned'][name]:.{digits}f} ({low} to {high})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=REPO / "configs" / "quickstart.yaml")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
