"""The page that goes with an exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.whole_file import replace_text

USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

`vllm serve {name}` serves it.
"""


def write_card(folder: Path, found: dict[str, Any], receipt: dict[str, Any]) -> None:
    """Writes README.md beside the weights: what it was made of, how it was merged, what was proven. Raises OSError."""
    front = json.dumps(
        {
            "base_model": found["base_model"],
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["finetune", "lora"],
        },
        indent=2,
    )
    rows = [
        f"| {name} | {_number(one['loss'])} | {_number(one['divergence'])} | {one['agreement']:.1%} |"
        for name, one in found["models"].items()
    ]
    sums = json.dumps({key: receipt[key] for key in sorted(receipt) if key != "drift"}, indent=2)
    lines = [
        "---",
        front,
        "---",
        "",
        f"# {found['name']}",
        "",
        f"{found['base_model']} with an adapter merged into its weights ({found['dtype']}).",
        "",
        USE.format(name=folder.name),
        "## What was compared",
        "",
        "Merged models with the one that was trained: held-out loss in nats a trained token, and what they say of the",
        "same texts (Kullback-Leibler divergence in nats a token, and the share of tokens with the same likeliest).",
        f"Here is the one merged into the {found['base']} base.",
        "",
        "| model | held-out loss | divergence | same token |",
        "| :--- | ---: | ---: | ---: |",
        *rows,
        "",
        "## Receipt",
        "",
        "```json",
        sums,
        "```",
        "",
    ]
    replace_text(folder / "README.md", "\n".join(lines))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.1e}"
