"""Runs one line of gpu_suite.py in this process and writes its result; finetune's own rooms do all of the work."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import runpy
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environment import REPO, used_bytes
from gpu_lines import CONFIG, Line, Skipped, lines, model_config, shrunk

if TYPE_CHECKING:
    from finetune.spec import RunSpec


def main() -> None:
    """Measures, and writes the result whole or not at all."""
    options = _arguments()
    line = next(line for line in lines() if line.name == options.name)
    line = shrunk(line) if options.cpu_proof else line
    used_before = used_bytes()  # before torch, whose import may already claim memory on the card
    result = {"name": line.name, "model": line.model, "held_to": line.held_to, "overrides": line.all_overrides()}
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_inputs(line, Path(folder), model_config(line, options.models, options.cpu_proof))
            (measure if line.peer == "finetune" else measure_peer)(line, Path(folder), used_before, result)
        except Skipped as error:
            result |= {"status": "skipped", "reason": str(error)}
        except Exception as error:  # whatever befell this line, the suite goes on
            first = (str(error).strip() or "no message").splitlines()[0].replace(folder, "…")
            result |= {"status": "failed", "reason": f"{type(error).__name__}: {first}"}
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of a line of gpu_lines.py")
    parser.add_argument("out", type=Path, help="file for the result")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--cpu-proof", action="store_true")
    return parser.parse_args()


def write_inputs(line: Line, folder: Path, config: dict[str, Any]) -> None:
    """Writes a model directory without weights, and rows that fill every sequence to the last token."""
    tokenizer = runpy.run_path(str(REPO / "scripts" / "make_tiny_model.py"))["make_tokenizer"]()
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = [token[1:] for token in sorted(tokenizer.get_vocab()) if token.startswith("Ġ") and token[1:].isalpha()]
    words = [word for word in words if len(tokenizer(f" {word}")["input_ids"]) == 1]
    draw = random.Random(0)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for length in _lengths(line, draw):
            text = "".join(f" {word}" for word in draw.choices(words, k=length - 1))  # the last token is the stop token
            file.write(json.dumps({"text": text}) + "\n")


def _lengths(line: Line, draw: random.Random) -> list[int]:
    """Tokens of each row: a whole sequence, or eight unequal parts of one where rows are packed."""
    if not line.packed:
        return [line.sequence] * line.rows
    cuts = [[0, *sorted(draw.sample(range(2, line.sequence - 1, 2), 7)), line.sequence] for _ in range(line.rows)]
    return [end - start for row in cuts for start, end in itertools.pairwise(row)]


def measure(line: Line, folder: Path, used_before: int | None, result: dict[str, Any]) -> None:
    """The straight line of `finetune train` with meters on; adds to `result` whatever is known, also where it fails."""
    from gpu_meter import Meter

    from finetune.data import load_data
    from finetune.model import build_model
    from finetune.pipeline import largest_batch
    from finetune.preflight import preflight
    from finetune.training import audit, build_trainer

    laps = result["seconds"] = Laps()
    spec = described(line, folder)
    result["recomputed_layers"] = spec.recomputed_layers
    laps.end("describe")
    data = load_data(spec)
    result["sequences"] = {"number": len(data.train_dataset), "tokens": data.train.stats.tokens}
    laps.end("data")
    verdict = preflight(spec, batch=largest_batch(spec, data))
    result |= {"parameters": verdict.to_json()["parameters"], "predicted": verdict.to_json()["memory"]}
    laps.end("preflight")
    if verdict.problems:
        raise Skipped("; ".join(verdict.problems))
    model = build_model(spec)
    trainer = build_trainer(spec, model, data, folder / "run")
    audit(spec, trainer)
    laps.end("build")
    meter = Meter(trainer)
    trainer.add_callback(meter)
    trainer.train()
    laps.end("train")
    measured = meter.memory(used_before)
    result |= {
        "status": "measured",
        "measured": measured,
        "errors": errors(result["predicted"], measured),
        "speed": meter.speed(line.warmup),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def described(line: Line, folder: Path) -> RunSpec:
    """The line's run; torch's allocator is held to what the line says."""
    import torch

    from finetune.config import load_config, parse_size
    from finetune.pipeline import set_allocator
    from finetune.preflight import decide_recomputing
    from finetune.spec import describe

    paths = {
        "model__name_or_path": folder / "model",
        "data__train": folder / "rows.jsonl",
        "output_dir": folder / "run",
    }
    config = load_config(CONFIG, line.all_overrides(**paths))
    set_allocator(config)
    if line.held_to:
        card = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(parse_size(line.held_to) / card)
    return decide_recomputing(describe(config))


def measure_peer(line: Line, folder: Path, used_before: int | None, result: dict[str, Any]) -> None:
    """The same run by a peer: its base model quantised alike, saved, and loaded in the peer's own way."""
    from gpu_meter import Meter
    from gpu_peers import peer_trainer, save_base

    laps = result["seconds"] = Laps()
    spec = described(line, folder)
    save_base(spec, folder / "weights")
    laps.end("weights")
    trainer = peer_trainer(line.peer, spec, folder)
    laps.end("build")
    each = spec.config.training.effective_batch_size * line.sequence
    meter = Meter(trainer, lambda: trainer.state.global_step * each)
    trainer.add_callback(meter)
    trainer.train()
    laps.end("train")
    result |= {
        "status": "measured",
        "measured": meter.memory(used_before),
        "speed": meter.speed(line.warmup),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def errors(predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, float]:
    """(predicted - measured) / measured for each figure that was measured."""
    names = ("allocated", "reserved", "process")
    pairs = {name: (predicted[f"{name}_bytes"], measured[f"{name}_bytes"]) for name in names}
    return {name: round(a / b - 1, 5) for name, (a, b) in pairs.items() if b}


class Laps(dict):
    """Seconds by name, each since the one before it ended."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        """Ends the lap `name`."""
        now = time.perf_counter()
        self[name], self._since = round(now - self._since, 2), now


if __name__ == "__main__":
    main()
