"""What measuring the gradient noise scale costs: updates with it and without it, in turn, in one run.

    python benchmarks/noise_cost.py CONFIG [KEY=VALUE ...] [--updates 40] [--json benchmarks/results/noise_cost.json]

Every second update has the hooks of training/noise.py taken off, so that a change in the machine's load falls on both
kinds. Two figures: the median over pairs of neighbours of the difference in time, as a share of an update; and, where
the device computes at once (a CPU), the time spent inside the meter as a share of the whole. Exits with 1 where the
second, or on a card the first, is above 2 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from environment import environment
from transformers import TrainerCallback

from finetune.config import load_config
from finetune.data import load_data
from finetune.model import build_model
from finetune.spec import describe
from finetune.training import build_trainer

ALLOWED = 0.02
WARM_UP = 4
"""Updates left out at the beginning: the first make the optimiser's state and fill caches."""


class InTurn(TrainerCallback):
    """Takes the meter's hooks off before every second update, and the time of each update."""

    def __init__(self, meter: Any) -> None:
        self.meter, self.seconds, self.inside = meter, [], 0.0
        for name in ("_see", "after_micro_batch"):
            setattr(meter, name, self._timed(getattr(meter, name)))

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Hooks on for even updates, off for odd ones."""
        self.meter.on_train_end(args, state, control)
        if state.global_step % 2 == 0:
            self.meter.watch()
        wait()
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Notes the time."""
        wait()
        self.seconds.append(time.perf_counter() - self._start)

    def _timed(self, function: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            function(*arguments)
            self.inside += time.perf_counter() - start

        return timed


def main() -> None:
    """Measures, prints, writes; exits with 1 where it costs more than is allowed."""
    options = _arguments()
    updates = WARM_UP + 2 * (options.updates // 2)
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"training.max_steps={updates}", "training.epochs=1000", "data.eval=null", f"output_dir={folder}/run"]
        spec = describe(load_config(options.config, [*keys, *options.keys]))
        trainer = build_trainer(spec, build_model(spec), load_data(spec), Path(folder))
        if trainer.noise is None:
            sys.exit("the configuration does not accumulate gradients: there is nothing to measure")
        turn = InTurn(trainer.noise)
        trainer.add_callback(turn)
        trainer.train()
    result = summary(turn.seconds[WARM_UP:], turn.inside / updates * 2, spec.device.kind)
    print(f"an update takes {result['seconds_without']:.3f} s without the noise scale")
    print(
        f"with it {result['share_of_pairs']:+.2%} over pairs, {result['share_inside']:.2%} of the time inside the meter"
    )
    if options.json:
        options.json.write_text(json.dumps({**result, "environment": environment()}, indent=1) + "\n", encoding="utf-8")
    decisive = result["share_inside" if spec.device.kind == "cpu" else "share_of_pairs"]
    sys.exit(f"more than {ALLOWED:.0%}" if decisive > ALLOWED else 0)


def summary(seconds: list[float], inside: float, device: str) -> dict[str, Any]:
    """From the times of updates, on and off in turn, and the seconds inside the meter of one that is on."""
    on, off = seconds[::2], seconds[1::2]
    usual = statistics.median(off)
    differences = [a - b for a, b in zip(on, off, strict=True)]
    return {
        "device": device,
        "pairs": len(off),
        "seconds_with": statistics.median(on),
        "seconds_without": usual,
        "share_of_pairs": statistics.median(differences) / usual,
        "share_inside": inside / usual,
        "allowed": ALLOWED,
    }


def wait() -> None:
    """Until the card is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("keys", nargs="*", help="keys of the configuration to change")
    parser.add_argument("--updates", type=int, default=40, help="updates to time, half of them with the meter")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
