"""How fast does finetune train beside plain TRL + PEFT, on a processor, and to what loss?

    python benchmarks/speed.py --model DIR --data ROWS.jsonl --eval ROWS.jsonl [--dtype float32] [--rounds 5] [--json F]

Two kinds of rows: short ones as they are, and long ones, made of them, that fill every sequence. Each round runs every
way once, each in a process of its own, so that a change in the machine's load falls on all of them. All compute in the
same type. Plain TRL is `SFTConfig` as it comes; TRL's best flags are packing and no recomputing of activations;
finetune packs, and recomputes nothing either, since preflight says that the run fits. The rows are conversations in
messages format, and every token is trained. The adapters of the first round score the same held-out rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environment import REPO, environment
from parity_trl import CONFIG, run_ours, run_plain

LENGTH = 512
STEPS, WARM_UP = 6, 2
"""Updates of each run, and those that are left out of the time: finetune follows its tensors through the first."""
PLAIN, OURS = "TRL + PEFT, plain", "finetune"
HELD_OUT_ROWS = 64


@dataclass(frozen=True)
class Way:
    """One peer: SFTConfig's fields for TRL, or overrides of `parity_trl.CONFIG` for finetune."""

    trl: dict[str, Any] | None = None
    overrides: list[str] = field(default_factory=list)


def _trl(rows: int, passes: int, **fields: Any) -> Way:
    return Way({"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes, **fields})


def _ours(rows: int, passes: int, *overrides: str) -> Way:
    batch = [f"training.micro_batch_size={rows}", f"training.gradient_accumulation_steps={passes}"]
    return Way(overrides=[*batch, "lora.dtype=float32", *overrides])


PACKED, KEPT = "data.packing=true", "training.gradient_checkpointing=false"
WAYS = {
    "short": {
        PLAIN: _trl(8, 2),
        "TRL + PEFT, best flags": _trl(1, 2, packing=True, activation_checkpointing=False),
        OURS: _ours(1, 2, PACKED, KEPT),
        "finetune, padded": _ours(8, 2, KEPT),
    },
    "full": {
        PLAIN: _trl(1, 2),
        "TRL + PEFT, best flags": _trl(1, 2, activation_checkpointing=False),
        OURS: _ours(1, 2, KEPT),
        "finetune, recomputing": _ours(1, 2),
    },
}
"""16 short rows are about two packs: an update sees as many tokens, packed or padded."""


def main() -> None:
    """Measures, prints, writes."""
    options = _arguments()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    held_out: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"short": options.data, "full": Path(folder) / "full.jsonl"}
        write_full(options.data, files["full"], options.model)
        for number, (kind, ways) in itertools.product(range(options.rounds), WAYS.items()):
            for place, (name, way) in enumerate(ways.items()):
                print(f"round {number + 1} of {options.rounds}: {kind} rows, {name}", file=sys.stderr, flush=True)
                out = Path(folder) / f"{kind}-{number}-{place}"
                run = run_way(way, options.model, files[kind], out, options.dtype)
                found.setdefault(kind, {}).setdefault(name, []).append(run)
                if number == 0 and options.eval:
                    held_out.setdefault(kind, {})[name] = score(options, out)
            if options.json:  # after each round: what is there is not lost
                text = json.dumps(_result(options, found, held_out), indent=1) + "\n"
                options.json.write_text(text, encoding="utf-8")
    print(table(_result(options, found, held_out)))


def _result(options: argparse.Namespace, found: dict[str, dict[str, list]], held_out: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": Path(options.model).name,
        "dtype": options.dtype,
        "length": LENGTH,
        "steps": STEPS,
        "rounds": len(found["short"][PLAIN]),
        **{kind: _kind(runs, held_out.get(kind, {})) for kind, runs in found.items()},
        "environment": environment(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of short conversations")
    parser.add_argument("--eval", type=Path, help="JSONL file of others, to score the adapters on")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="what all compute in")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def write_full(short: Path, out: Path, model: str) -> None:
    """Answers of short rows one after another, in rows of a little more than LENGTH tokens, which are then cut."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    answers = [json.loads(line)["messages"][-1]["content"] for line in short.read_text(encoding="utf-8").splitlines()]
    rows, text, start = [], "", 0
    while len(rows) < 4 * STEPS:
        text, start = f"{text} {answers[start % len(answers)]}", start + 1
        if len(tokenizer(text)["input_ids"]) > LENGTH:
            rows.append([{"role": "user", "content": "Go on."}, {"role": "assistant", "content": text.strip()}])
            text = ""
    out.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")


def run_way(way: Way, model: str, data: Path, out: Path, dtype: str) -> dict[str, Any]:
    """One run, as `run_plain` and `run_ours` tell of it; its adapter lies in `out`/adapter."""
    out.mkdir()
    if way.trl is not None:
        return run_plain(model, data, out, STEPS, dtype, max_length=LENGTH, **way.trl)
    once = ["data.max_truncated=1", "training.rehearsal=false"]  # neither changes an update
    return run_ours(model, data, out, STEPS, *computing(dtype), *once, *way.overrides)


def computing(dtype: str) -> list[str]:
    """Overrides of `parity_trl.CONFIG` with which finetune computes in `dtype`."""
    return [f"model.dtype={dtype}", f"quantization.compute_dtype={dtype}"]


def score(options: argparse.Namespace, out: Path) -> float:
    """Held-out loss of the adapter in `out`, in nats per token."""
    from finetune.config import load_config
    from finetune.data import load_data
    from finetune.model import load_trained
    from finetune.spec import describe
    from finetune.training.evaluation import evaluate_model

    config, rows = out / "score.yaml", out / "eval.jsonl"
    lines = options.eval.read_text(encoding="utf-8").splitlines(keepends=True)[:HELD_OUT_ROWS]
    rows.write_text("".join(lines), encoding="utf-8")
    config.write_text(CONFIG.format(model=options.model, data=rows, steps=1, run=out / "none"), encoding="utf-8")
    others = [f"data.eval={options.data}", "lora.dtype=float32", "data.max_truncated=1"]
    spec = describe(load_config(config, [*computing("float32"), *others]))
    data = load_data(spec)
    return evaluate_model(spec, load_trained(spec, out / "adapter"), data.train.rows, data.collator)


def _kind(runs: dict[str, list[dict[str, Any]]], held_out: dict[str, float]) -> dict[str, Any]:
    plain = [_speed(run) for run in runs[PLAIN]]
    return {
        name: {
            "tokens_per_second": [round(_speed(run), 1) for run in of],
            "times_plain": [round(_speed(run) / base, 3) for run, base in zip(of, plain, strict=False)],
            "tokens": of[0]["tokens"][-1],
            "peak_bytes": max(run["peak_bytes"] for run in of),
            "losses": of[0]["losses"],
            "held_out_loss": held_out.get(name),
        }
        for name, of in runs.items()
    }


def _speed(run: dict[str, Any]) -> float:
    """Tokens per second over the updates behind the warm-up; every token is trained, but the first of each row."""
    tokens, ends = run["tokens"], run["ends"]
    return (tokens[-1] - tokens[WARM_UP - 1]) / (ends[-1] - ends[WARM_UP - 1])


def table(result: dict[str, Any]) -> str:
    """Markdown: one row a way."""
    lines = ["| rows | way | tokens/s, median (range) | times plain TRL | GiB | loss of each update | held-out loss |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for kind, name in [(each, name) for each in WAYS for name in result[each]]:
        row = result[kind][name]
        held_out = "" if row["held_out_loss"] is None else f"{row['held_out_loss']:.3f}"
        losses = " ".join(f"{loss:.2f}" for loss in row["losses"])
        cells = [kind, name, spread(row["tokens_per_second"], 0), spread(row["times_plain"], 2)]
        cells += [f"{row['peak_bytes'] / 2**30:.2f}", losses, held_out]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    main()
