"""How fast does finetune train beside Axolotl, on a processor, and to what loss?

    python benchmarks/speed_axolotl.py --python PYTHON --model DIR --data ROWS.jsonl [--rounds 3] [--json FILE]

Axolotl wants other versions of the same libraries than finetune, so PYTHON is one of its own
(`pip install torch==2.13.0 axolotl`). Short rows as they are, in float32, which Axolotl computes in on a processor;
its kernels for adapters need a card and are off. Each round runs every way once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from environment import REPO, environment
from parity_trl import run_ours
from speed import KEPT, LENGTH, PACKED, STEPS, WARM_UP, computing, spread
from transformers import AutoTokenizer

AXOLOTL, OURS = "Axolotl", "finetune"
BATCH = ["training.micro_batch_size=1", "training.gradient_accumulation_steps=2", "lora.dtype=float32"]
KERNELS = ("lora_qkv_kernel", "lora_o_kernel", "lora_mlp_kernel")


def main() -> None:
    """Measures, prints, writes after each round."""
    options = _arguments()
    found: dict[str, list[dict[str, Any]]] = {AXOLOTL: [], OURS: []}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found[AXOLOTL].append(_measured(run_axolotl(options, Path(folder))))
        with tempfile.TemporaryDirectory() as folder:
            keys = [*computing("float32"), *BATCH, PACKED, KEPT, "training.rehearsal=false"]
            found[OURS].append(_measured(run_ours(options.model, options.data, Path(folder), STEPS, *keys)))
        result = {
            "model": Path(options.model).name,
            "dtype": "float32",
            "steps": STEPS,
            "rounds": number + 1,
            "axolotl": versions(options.python),
            "ways": found,
            "environment": environment(),
        }
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", required=True, help="a Python that has axolotl")
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of short conversations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def run_axolotl(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Losses, and of each update its end in seconds and the tokens so far; the peak memory of its process."""
    config, out, rows = folder / "config.yaml", folder / "out.json", folder / "rows.jsonl"
    rows.write_text(rendered(options.model, options.data), encoding="utf-8")
    config.write_text(yaml.safe_dump(settings(options.model, rows, folder)), encoding="utf-8")
    script = Path(__file__).with_name("plain_axolotl.py")
    alone = {
        "HF_HUB_OFFLINE": "1",
        "AXOLOTL_DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | alone
    done = subprocess.run([options.python, script, config, out], capture_output=True, text=True, env=variables)
    if done.returncode:
        sys.exit(f"Axolotl failed:\n{done.stderr[-2000:]}")
    return json.loads(out.read_text(encoding="utf-8"))


def rendered(model: str, data: Path) -> str:
    """Lines of JSON with conversations as the model's template has them: of a conversation itself Axolotl trains what
    was said and not what stands around it, which would be fewer tokens, and other ones, than with the other ways."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = (json.loads(line)["messages"] for line in data.read_text(encoding="utf-8").splitlines())
    texts = (tokenizer.apply_chat_template(messages, tokenize=False) for messages in rows)
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def settings(model: str, rows: Path, folder: Path) -> dict[str, Any]:
    """What speed.py gives plain TRL, in Axolotl's words: 16 rows an update, eight at once."""
    return {
        "base_model": model, "load_in_4bit": True, "adapter": "qlora", "device": "cpu",
        "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], **dict.fromkeys(KERNELS, False),
        "datasets": [{"path": str(rows), "type": "completion", "field": "text"}],
        "sequence_len": LENGTH, "sample_packing": False, "pad_to_sequence_len": False,
        "micro_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": STEPS, "num_epochs": 1,
        "optimizer": "adamw_torch", "lr_scheduler": "cosine", "warmup_steps": 1, "learning_rate": 1e-3,
        "bf16": False, "fp16": False, "tf32": False, "gradient_checkpointing": True, "logging_steps": 1,
        "save_strategy": "no", "seed": 42, "output_dir": str(folder / "run"),
        "dataset_prepared_path": str(folder / "prepared"), "dataset_num_proc": 1,
    }  # fmt: skip


def versions(python: str) -> dict[str, str]:
    """Of Axolotl and what it trains with."""
    names = ("axolotl", "torch", "transformers", "trl", "peft", "bitsandbytes")
    code = f"from importlib.metadata import version; import json; print(json.dumps({{n: version(n) for n in {names}}}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def _measured(run: dict[str, Any]) -> dict[str, Any]:
    tokens, ends = run["tokens"], run["ends"]
    return {
        "tokens_per_second": (tokens[-1] - tokens[WARM_UP - 1]) / (ends[-1] - ends[WARM_UP - 1]),
        "tokens": tokens[-1],
        "losses": run["losses"],
        "peak_bytes": run["peak_bytes"],
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: one row a way."""
    lines = ["| way | tokens/s, median (range) | times Axolotl | GiB | loss of each update |", "|---|---|---|---|---|"]
    base = [one["tokens_per_second"] for one in result["ways"][AXOLOTL]]
    for name, runs in result["ways"].items():
        rates = [one["tokens_per_second"] for one in runs]
        times = [rate / other for rate, other in zip(rates, base, strict=True)]
        losses = " ".join(f"{loss:.2f}" for loss in runs[0]["losses"])
        peak = max(one["peak_bytes"] for one in runs) / 2**30
        lines.append(f"| {name} | {spread(rates, 0)} | {spread(times, 2)} | {peak:.2f} | {losses} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    main()
