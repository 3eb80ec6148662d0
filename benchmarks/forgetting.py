"""What `finetune eval --forgetting` says of three short runs of the quickstart, from careful to reckless.

    python benchmarks/forgetting.py [CONFIG] [--banking FOLDER] [--json benchmarks/results/forgetting.json]

FOLDER holds BANKING77: what the models' frozen vectors are worth to logistic regression, before and after. Each run
is `finetune train` on configs/quickstart.yaml with RUNS and SHORT over it, then the check on the program's own
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

import numpy as np
from banking77 import Split, read
from environment import environment
from sklearn.linear_model import LogisticRegression

from finetune.config import load_config
from finetune.embeddings import Occurrence, TokenStates, open_layers
from finetune.senses.views import Rarity, unit
from finetune.spec.source import locate_model

REPO = Path(__file__).resolve().parents[1]
RESULT = REPO / "benchmarks" / "results" / "forgetting.json"
RUNS = [(8, 1e-3), (12, 5e-3), (12, 3e-2)]
"""Updates and learning rate."""

SHORT = ["data.max_length=256", "data.eval=null", "training.rehearsal=false", "training.sample_answers=0"]
"""What is not measured here is kept small or left out: sequences, held-out rows, answers."""

INTENTS, EACH, C = 20, 20, 10.0
"""Intents of BANKING77, rows of each to fit and to test, and C of logistic regression."""


def main() -> None:
    """Runs, prints, writes."""
    options = _arguments()
    splits = options.banking and tuple(some(read(options.banking / f"{name}.csv")) for name in ("train", "test"))
    found: dict[str, Any] = {"overrides": SHORT}
    if splits:
        found["downstream"] = downstream(options.config, None, splits)
    found |= {"runs": [run(options.config, *one, splits) for one in RUNS], "environment": environment()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def some(split: Split) -> Split:
    """The first EACH rows of the first INTENTS by name."""
    texts, labels = split
    places = [
        at
        for label in sorted(set(labels))[:INTENTS]
        for at in [i for i, one in enumerate(labels) if one == label][:EACH]
    ]
    return [texts[at] for at in places], [labels[at] for at in places]


def downstream(config: Path, adapter: Path | None, splits: tuple[Split, Split]) -> dict[str, float]:
    """Accuracy of logistic regression on frozen vectors of the configured model: the mean of unit states after its
    middle layer, `without` sense features and `with` those of rare words there and before the layers. The first
    token's state, far larger than the others, is left out as in the check."""
    encoder = open_layers("model", locate_model(load_config(config).model), adapter)
    (train, labels), (test, truth) = splits
    rarity = Rarity.of(encoder.token_ids(train))

    def pool(tokens: TokenStates) -> np.ndarray:
        first = int(len(tokens.ids) > 1)
        states, weights = unit(tokens.layers[len(tokens.layers) // 2][first:]), rarity(tokens.ids[first:])
        rare = weights @ states / weights.sum()
        return np.stack([states.mean(0), rare, tokens.context(rarity, 0, own=True)])

    fitted, tested = (encoder.encode([Occurrence(text, 0, len(text)) for text in of], pool) for of in (train, test))
    centre, found = fitted.mean(0), {}
    for name, parts in (("without", 1), ("with", 3)):
        inputs = [unit(of - centre)[:, :parts].reshape(len(of), -1) for of in (fitted, tested)]
        told = LogisticRegression(C=C, max_iter=1000).fit(inputs[0], labels).predict(inputs[1])
        found[name] = float(np.mean(told == np.array(truth)))
    return found


def run(config: Path, steps: int, rate: float, splits: tuple[Split, Split] | None = None) -> dict[str, Any]:
    """The answer of the check on one run, the seconds that both took, and what its vectors are worth."""
    changed = [f"training.max_steps={steps}", f"training.learning_rate={rate:.1e}"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        finetune("train", config, *SHORT, *changed, f"output_dir={folder}/run")
        trained = time.perf_counter()
        answer = json.loads(finetune("eval", f"{folder}/run", "--forgetting", "--json"))
        seconds = {"train": trained - started, "check": time.perf_counter() - trained}
        if splits:
            answer["downstream"] = downstream(config, Path(folder) / "run" / "adapter", splits)
    print(steps, rate, answer["change"], answer["verdict"], answer.get("downstream"), flush=True)
    return {"steps": steps, "learning_rate": rate, "seconds": seconds, **answer}


def finetune(*arguments: object) -> str:
    """What a command prints on standard output."""
    command = [sys.executable, "-m", "finetune.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, cwd=REPO, stdout=subprocess.PIPE, text=True).stdout


def tables() -> dict[str, str]:
    """Tables of docs/forgetting.md by the names of their places."""
    return {"forgetting": table(), "downstream": downstream_table()}


def table() -> str:
    """The committed result as Markdown: both figures that decide, with the interval of their change."""
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]
    lines = ["| run | sense separation | loss a token | verdict |", "|---|---|---|---|"]
    return "\n".join([*lines, *map(row, runs)])


def downstream_table() -> str:
    """What frozen vectors are worth in each model, as Markdown."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    models = {"base": found["downstream"]}
    models |= {f"{one['steps']} updates at {one['learning_rate']:g}": one["downstream"] for one in found["runs"]}
    lines = ["| vectors of | sentence alone | with sense features |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {name} | {of['without']:.3f} | {of['with']:.3f} |" for name, of in models.items())])


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
    parser.add_argument("--banking", type=Path, help="folder of BANKING77, for what vectors are worth")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
