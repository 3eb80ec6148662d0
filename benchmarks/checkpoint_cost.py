"""What a checkpoint costs, beside the updates of the same run, and what share that is at the default interval.

    python benchmarks/checkpoint_cost.py CONFIG [KEY=VALUE ...] [--updates 6] [--json FILE] [--name NAME]

Every update of a short run is followed by a checkpoint, written as a run writes it: aside, forced to the disk, renamed
and read back. By the clock (`training.save_steps=auto`) one is written every ten minutes; the share is the median save
over those. For the size of a 7B run's state (16.8 million adapter weights, 8-bit moments) take SmolLM2-135M with
lora.target_modules=all-linear lora.r=56 training.optimizer=adamw_8bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from environment import environment
from noise_cost import wait
from transformers import TrainerCallback

from finetune.config import load_config
from finetune.data import load_data
from finetune.model import build_model
from finetune.spec import describe
from finetune.training import Watched, build_trainer
from finetune.training.keeper import INTERVAL, SHARE


class Clock(TrainerCallback):
    """Seconds of each update and of each save."""

    def __init__(self, trainer: Watched) -> None:
        self.updates, self.saves = [], []
        self._write, trainer.save = trainer.save, self._save

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock."""
        wait()
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stops it."""
        wait()
        self.updates.append(time.perf_counter() - self._start)

    def _save(self) -> None:
        start = time.perf_counter()
        self._write()
        self.saves.append(time.perf_counter() - start)


def main() -> None:
    """Measures, prints, writes; exits with 1 where the share is above 1 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("keys", nargs="*", help="keys of the configuration to change")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--json", type=Path, help="file to write the result to, beside others in it")
    parser.add_argument("--name", default="run", help="the result's name in that file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"training.max_steps={options.updates}", "training.save_steps=1", "data.eval=null"]
        spec = describe(load_config(options.config, [*fixed, f"output_dir={folder}/run", *options.keys]))
        trainer = build_trainer(spec, build_model(spec), load_data(spec), Path(folder))
        clock = Clock(trainer)
        trainer.add_callback(clock)
        trainer.train()
        newest = max(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        size = sum(path.stat().st_size for path in newest.iterdir())
    save, update = statistics.median(clock.saves), statistics.median(clock.updates)
    result = {
        "adapter_weights": spec.parameters.trainable,
        "checkpoint_bytes": size,
        "seconds_a_save": save,
        "seconds_saves": clock.saves,
        "seconds_an_update": update,
        "interval_seconds": INTERVAL,
        "share": save / max(INTERVAL, save / SHARE),
    }
    print(f"a checkpoint of {size / 2**20:,.0f} MiB takes {save:.3f} s, an update {update:.2f} s")
    print(f"every {INTERVAL:.0f} s that is {result['share']:.3%} of the time")
    if options.json:
        known = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
        known[options.name] = {**result, "environment": environment()}
        options.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    sys.exit("more than 1 %" if result["share"] > SHARE else 0)


if __name__ == "__main__":
    main()
