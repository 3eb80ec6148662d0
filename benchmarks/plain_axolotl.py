"""QLoRA with Axolotl, and nothing of ours: run by a Python of its own that has it, for speed_axolotl.py.

    PYTHON benchmarks/plain_axolotl.py CONFIG.yaml OUT.json

Axolotl reads the configuration and trains; beside it only a clock listens, and counts the tokens that are no padding.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from axolotl.cli.train import do_cli

IGNORED = -100
config, out = sys.argv[1:3]
del sys.argv[1:]  # Axolotl reads what is left of the command line
trainers, ends, counts = [], [], []


class Clock(transformers.TrainerCallback):
    """When each update ended, and the tokens so far."""

    def on_step_end(self, args, state, control, **kwargs):
        ends.append(time.perf_counter())
        counts.append(seen["tokens"])


begin, step = transformers.Trainer.__init__, transformers.Trainer.training_step
seen = {"tokens": 0}


def begin_with_clock(trainer, *args, **kwargs):
    begin(trainer, *args, **kwargs)
    trainer.add_callback(Clock())
    trainers.append(trainer)


def counted_step(trainer, model, inputs, *args, **kwargs):
    seen["tokens"] += int((inputs["labels"] != IGNORED).sum())  # every token but padding is trained
    return step(trainer, model, inputs, *args, **kwargs)


transformers.Trainer.__init__, transformers.Trainer.training_step = begin_with_clock, counted_step
do_cli(config=config)
history = trainers[-1].state.log_history
result = {
    "losses": [float(entry["loss"]) for entry in history if "loss" in entry],
    "ends": ends,
    "tokens": counts,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
}
Path(out).write_text(json.dumps(result), encoding="utf-8")
