"""Exports a run and keeps the figures: what merging does to the held-out loss, and what llama.cpp answers.

python benchmarks/export.py RUN [--json FILE] exports to a directory that is gone afterwards. The committed result is of
the quickstart's run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = {
    "trained": "trained: 4-bit base, adapter beside it",
    "16bit": "merged into the published base",
    "dequantized": "merged into the dequantised base",
}


def tables() -> dict[str, str]:
    """The table of docs/export.md, by the name of its place."""
    found = json.loads((RESULTS / "export.json").read_text(encoding="utf-8"))
    lines = [
        "| SmolLM2-135M, the quickstart's run | held-out loss | nats a token from the trained | same likeliest token |",
        "| :--- | ---: | ---: | ---: |",
    ]
    for name, one in found["models"].items():
        lines.append(f"| {NAMES[name]} | {one['loss']:.4f} | {one['divergence']:.4f} | {one['agreement']:.1%} |")
    gguf = found["gguf"]
    same = f"{gguf['same_text']} of {gguf['prompts']}"
    lines += ["", f"llama.cpp gave the greedy answer of transformers to {same} prompts."]
    return {"export": "\n".join(lines)}


def measure(run: Path) -> dict[str, Any]:
    """An export's figures."""
    from environment import environment

    from finetune.exporting import export

    with tempfile.TemporaryDirectory() as folder:
        found = export(run, gguf=True, output=Path(folder) / "merged", say=lambda line: print(line, file=sys.stderr))
    del found["directory"]
    return {"environment": environment(), **found}


def main() -> int:
    """Measures, and writes where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    asked = parser.parse_args()
    text = json.dumps(measure(asked.run), indent=2) + "\n"
    asked.json.write_text(text, encoding="utf-8") if asked.json else print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
