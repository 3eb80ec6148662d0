"""The table of docs/fundamentals/fine-tuning-7b.md: what each choice of configs/qlora_r16.yaml saves, by preflight."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from finetune.config import load_config
from finetune.pipeline import plan_ahead
from finetune.plan import show_plan
from finetune.preflight import Prediction, find_card, predict
from finetune.spec import describe
from finetune.study import Table

REPO = Path(__file__).resolve().parents[1]
PLAN, CARD = REPO / "configs" / "qlora_r16.yaml", "RTX 4090"
EXAMPLES = 3200
"""Packs: about 15,000 short instructions."""
CHANGES = {
    "the plan": [],
    "one quantisation": ["quantization.double_quant=false"],
    "base in 16 bits (LoRA)": ["quantization.type=none"],
    "no checkpointing": ["training.gradient_checkpointing=false"],
    "unquantised parts in float32": ["model.fp32_unquantized=true"],
    "rank 64": ["lora.r=64"],
    "all linear layers": ["lora.target_modules=all-linear"],
    "AdamW with 32-bit state": ["training.optimizer=adamw_torch"],
    "one row at once": ["training.micro_batch_size=1", "training.gradient_accumulation_steps=16"],
    "eight rows at once": ["training.micro_batch_size=8", "training.gradient_accumulation_steps=2"],
    "sequences of 4,096": ["data.max_length=4096"],
    "all logits at once": ["training.loss_kernel=full_logits"],
    "eager attention": ["model.attention=eager"],
}
"""Keys changed in the plan, by what the page calls them."""
GIB = 2**30


def plan_block() -> str:
    """What `finetune plan` prints for the plan, with the command before it."""
    out = io.StringIO()
    show_plan(plan_ahead(load_config(PLAN, []), CARD, examples=EXAMPLES), Console(file=out, width=100))
    lines = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"```console\n$ finetune plan configs/{PLAN.name} --gpu '{CARD}' --examples {EXAMPLES}\n{lines}\n```"


def predictions() -> dict[str, tuple[Prediction, int]]:
    """Prediction and trained weights of the plan and of each change to it."""
    found = {}
    for name, keys in CHANGES.items():
        spec = describe(load_config(PLAN, keys), find_card(CARD))
        found[name] = predict(spec), spec.parameters.trainable
    return found


def table(found: dict[str, tuple[Prediction, int]]) -> Table:
    """The page's table, in GiB."""
    whole = found["the plan"][0].allocated
    rows = []
    for name, (prediction, trained) in found.items():
        keys = ", ".join(f"`{key}`" for key in CHANGES[name]) or "–"
        more = f"{(prediction.allocated - whole) / GIB:+.2f}" if CHANGES[name] else "–"
        sizes = f"{prediction.allocated / GIB:.2f}", more, f"{prediction.process / GIB:.2f}"
        rows.append([name, keys, trained, *sizes])
    return Table("", ["choice", "keys", "trained weights", "allocated, GiB", "against the plan", "process, GiB"], rows)
