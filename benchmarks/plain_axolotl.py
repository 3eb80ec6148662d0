"""QLoRA with Axolotl, and nothing of ours: run by a Python of its own that has it, for speed_axolotl.py.

    PYTHON benchmarks/plain_axolotl.py CONFIG.yaml OUT.json

Axolotl reads the configuration and trains; beside it only a clock listens, and counts the tokens that are no padding.
"""

import json
import resource
import sys
import time
from pathlib import Path

import transformers
from axolotl.cli.train import do_cli

IGNORED = -100


class Clock(transformers.TrainerCallback):
    """When each update ended, and the tokens so far."""

    def __init__(self):
        self.ends, self.tokens, self.counts = [], 0, []

    def on_step_end(self, args, state, control, **kwargs):
        """After an optimiser step."""
        self.ends.append(time.perf_counter())
        self.counts.append(self.tokens)


def main(config: str, out: str) -> None:
    """Trains, and writes what was seen."""
    clock, trainers = Clock(), []
    begin, step = transformers.Trainer.__init__, transformers.Trainer.training_step

    def begin_with_clock(trainer, *args, **kwargs):
        begin(trainer, *args, **kwargs)
        trainer.add_callback(clock)
        trainers.append(trainer)

    def counted_step(trainer, model, inputs, *args, **kwargs):
        clock.tokens += int((inputs["labels"] != IGNORED).sum())  # every token but padding is trained
        return step(trainer, model, inputs, *args, **kwargs)

    transformers.Trainer.__init__, transformers.Trainer.training_step = begin_with_clock, counted_step
    do_cli(config=config)
    result = {
        "losses": [float(entry["loss"]) for entry in trainers[-1].state.log_history if "loss" in entry],
        "ends": clock.ends,
        "tokens": clock.counts,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    config, out = sys.argv[1:]
    del sys.argv[1:]  # Axolotl reads what is left of the command line
    main(config, out)
