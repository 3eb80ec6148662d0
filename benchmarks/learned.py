"""What methods other than supervised fine-tuning learn on a CPU: SmolLM2-135M, held-out figures before and after.

    python benchmarks/learned.py [--only rloo] [--preferences FILE]

Runs `finetune train` on configs/rloo_format.yaml, whose reward is a required form of answer, and on a file of
preferences as dpo, and writes benchmarks/results/learned_METHOD.json: the report's figures and every line of
metrics.jsonl. Preferences longer than 768 tokens are left out; three in ten of the others are held out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import environment

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
PREFERENCES = REPO.parent / "shared" / "data" / "preference" / "dpo_en_demo.json"

DPO = [
    "training.method=dpo", "rewards=[]", "rollout={}", "data.max_length=768", "data.on_truncation=drop",
    "data.eval=null", "data.eval_fraction=0.3", "training.max_steps=null", "training.epochs=3.0",
    "training.micro_batch_size=1", "training.gradient_accumulation_steps=4",
    "training.learning_rate=2.0e-4", "training.sample_answers=0",
]  # fmt: skip
"""What makes the configuration one of preferences."""


def main() -> None:
    """Runs what was asked for, one after the other."""
    options = _arguments()
    runs = {"rloo": [], "dpo": [*DPO, f"data.train={options.preferences}"]}
    for method in options.only or runs:
        with tempfile.TemporaryDirectory() as folder:
            result = learn(Path(folder) / "run", runs[method])
        path = RESULTS / f"learned_{method}.json"
        path.write_text(json.dumps({**result, "environment": environment()}, indent=1) + "\n", encoding="utf-8")
        print(method, json.dumps(result["held_out"]), f"{result['train']['seconds']:.0f} s", flush=True)


def tables() -> dict[str, str]:
    """Tables of docs/methods.md by the names of their places."""
    return {"learned": table()}


def table() -> str:
    """The committed results as Markdown: held-out figures before and after, and seconds of training."""
    lines = ["| method | held out | before | after | updates | training |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for path in sorted(RESULTS.glob("learned_*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        method, train = path.stem.removeprefix("learned_"), found["train"]
        minutes = f"{train['seconds'] / 60:.1f} min"
        for name in ("reward", "margin", "accuracy", "loss"):
            if pair := found["held_out"].get(name):
                figures = [f"{pair[when]:.3f}" for when in ("before", "after")]
                lines.append(f"| {' | '.join([f'`{method}`', name, *figures, str(train['steps']), minutes])} |")
    return "\n".join(lines)


def learn(run: Path, overrides: list[str]) -> dict[str, object]:
    """The figures of one run."""
    config = str(REPO / "configs" / "rloo_format.yaml")
    command = [sys.executable, "-m", "finetune.cli", "train", config, *overrides, f"output_dir={run}"]
    subprocess.run(command, check=True, cwd=REPO)
    return collect(run, overrides)


def collect(run: Path, overrides: list[str]) -> dict[str, object]:
    """What is kept of a run's directory."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = ("held_out", "train", "tokens_per_second", "baseline", "memory", "data")
    found = {key: report[key] for key in kept}
    found["data"] = {side: {**stats, "source": Path(stats["source"]).name} for side, stats in report["data"].items()}
    changed = [item for item in overrides if not item.startswith("data.train=")]
    return {**found, "overrides": changed, "metrics": list(map(json.loads, lines))}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=["rloo", "dpo"], help="this method alone")
    parser.add_argument("--preferences", type=Path, default=PREFERENCES, help="file of preferences")
    return parser.parse_args()


if __name__ == "__main__":
    main()
