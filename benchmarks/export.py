"""Exports runs and keeps the figures: what merging does to the held-out loss, and what llama.cpp answers.

python benchmarks/export.py [RUN] [--shapes FOLDER] [--json FILE] exports to directories that are gone afterwards. RUN
is the quickstart's run. `--shapes` first makes the models of export_models.py in FOLDER and trains them on the
quickstart's rows; what is there already is used again. FILE keeps the figures of models that are not measured now.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
TITLES = {"smollm2": "SmolLM2-135M", "qwen2": "Qwen2's shape", "llama3": "Llama 3's shape"}
SHAPES = ("qwen2", "llama3")
STEPS = 800
KEYS = ("lora.target_modules=all-linear", "training.max_steps=120", "training.learning_rate=5.0e-3")
"""Of pre-training, and of the run: small models forget and learn faster than the quickstart's."""
NAMES = {
    "trained": "trained: 4-bit base, adapter beside it",
    "16bit": "merged into the published base",
    "dequantized": "merged into the dequantised base",
}


def tables() -> dict[str, str]:
    """The tables of docs/export.md, by the names of their places."""
    results = json.loads((RESULTS / "export.json").read_text(encoding="utf-8"))
    lines = [
        "| | held-out loss | nats a token from the trained | same likeliest token | by merging alone |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    answers = ["| | llama.cpp through | same answer | ended by a stop token |", "| :--- | :--- | ---: | ---: |"]
    for key, title in TITLES.items():
        found = results[key]
        lines.append(f"| **{title}** | | | | |")
        for name, one in found["models"].items():
            merging = "" if one.get("merging") is None else f"{one['merging']:.1e}"
            figures = f"{one['loss']:.4f} | {one['divergence']:.4f} | {one['agreement']:.1%} | {merging}"
            lines.append(f"| {NAMES[name]} | {figures} |")
        gguf = found["gguf"]
        for package, one in gguf["packages"].items():
            same = f"{one['same_text']} of {gguf['prompts']}"
            answers.append(f"| {title} | `{package}` {one.get('version', '')} | {same} | {one.get('stopped', '')} |")
    return {"export": "\n".join(lines), "export-llama-cpp": "\n".join(answers)}


def measure(run: Path) -> dict[str, Any]:
    """An export's figures."""
    from environment import environment

    from finetune.exporting import export

    with tempfile.TemporaryDirectory() as folder:
        found = export(run, gguf=True, output=Path(folder) / "merged", say=lambda line: print(line, file=sys.stderr))
    del found["directory"]
    return {"environment": environment(), **found}


def trained_shape(name: str, folder: Path) -> Path:
    """The run of a model of export_models.py; both are made where they are not there."""
    base, run = folder / f"base_{name}", folder / f"export_{name}"
    if not base.exists():
        subprocess.run(
            [sys.executable, REPO / "benchmarks" / "export_models.py", name, base, "--steps", str(STEPS)], check=True
        )
    if not run.exists():
        keys = [f"model.name_or_path={base}", "training.sample_answers=0", f"output_dir={run}", *KEYS]
        subprocess.run([sys.executable, "-m", "finetune.cli", "train", "configs/quickstart.yaml", *keys], check=True)
    return run


def main() -> int:
    """Measures, and writes where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--shapes", type=Path, help="folder for the models of export_models.py and their runs")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    asked = parser.parse_args()
    found = json.loads(asked.json.read_text(encoding="utf-8")) if asked.json and asked.json.exists() else {}
    runs = {"smollm2": asked.run} if asked.run else {}
    if asked.shapes:
        runs |= {name: trained_shape(name, asked.shapes) for name in SHAPES}
    found |= {name: measure(run) for name, run in runs.items()}
    text = json.dumps(found, indent=2) + "\n"
    asked.json.write_text(text, encoding="utf-8") if asked.json else print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
