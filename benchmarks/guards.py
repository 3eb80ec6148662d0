"""What the guards cost while nothing happens: updates with them and without them, in turn, in one run.

    python benchmarks/guards.py CONFIG [KEY=VALUE ...] [--updates 60] [--json benchmarks/results/guards.json]

Every second update has the trainer's `guards` taken away, so that a change in the machine's load falls on both kinds.
Two figures: the median over pairs of neighbours of the difference in time, as a share of an update; and, where the
device computes at once (a CPU), the time spent inside the guards (training/update.py, guards.py and the check before
the optimiser's step) as a share of the whole. Exits with 1 where the second, or on a card the first, is above 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import environment
from noise_cost import WARM_UP, summary, wait
from transformers import TrainerCallback

from finetune.config import load_config
from finetune.data import load_data
from finetune.model import build_model
from finetune.spec import describe
from finetune.training import Watched, build_trainer

ALLOWED = 0.01


class InTurn(TrainerCallback):
    """Takes the guards away for every second update, and the time of each update."""

    def __init__(self, trainer: Watched) -> None:
        self.trainer, self.guards, self.seconds, self.inside = trainer, trainer.guards, [], 0.0
        trainer.get_batch_samples = self._in_turn(trainer.get_batch_samples)
        trainer.pass_over = self._outside(trainer.pass_over)
        trainer.guards.after_update = self._timed(trainer.guards.after_update)

    def _in_turn(self, function: Any) -> Any:
        """Guards for even updates, none for odd ones: before an update's first pass."""

        def get(*arguments: Any) -> Any:
            trainer = self.trainer
            trainer.guards = self.guards if trainer.state.global_step % 2 == 0 else None
            found = function(*arguments)
            if trainer.guards:
                step, finite = trainer.update.step, trainer.update.finite
                trainer.update.step, trainer.update.finite = self._timed(step), self._timed(finite)
            wait()
            self._start = time.perf_counter()
            return found

        return get

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Notes the time. The guards are there for the log."""
        wait()
        self.seconds.append(time.perf_counter() - self._start)
        self.trainer.guards = self.guards

    def _timed(self, function: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = function(*arguments)
            self.inside += time.perf_counter() - start
            return found

        return timed

    def _outside(self, function: Any) -> Any:
        """The pass itself, which the guards only call."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = function(*arguments)
            self.inside -= (time.perf_counter() - start) if self.trainer.guards else 0.0
            return found

        return timed


def main() -> None:
    """Measures, prints, writes; exits with 1 where it costs more than is allowed."""
    options = _arguments()
    updates = WARM_UP + 2 * (options.updates // 2)
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"training.max_steps={updates}", "training.epochs=1000", "data.eval=null", f"output_dir={folder}/run"]
        spec = describe(load_config(options.config, [*keys, *options.keys]))
        trainer = build_trainer(spec, build_model(spec), load_data(spec), Path(folder))
        turn = InTurn(trainer)
        trainer.add_callback(turn)
        trainer.train()
    result = summary(turn.seconds[WARM_UP:], turn.inside / updates * 2, spec.device.kind) | {"allowed": ALLOWED}
    print(f"an update takes {result['seconds_without']:.4f} s without the guards")
    print(f"with them {result['share_of_pairs']:+.2%} over pairs, {result['share_inside']:.2%} of the time inside them")
    if options.json:
        model = Path(spec.config.model.name_or_path).name
        settings = {"model": model, "micro_batch_size": spec.config.training.micro_batch_size}
        settings["gradient_accumulation_steps"] = spec.config.training.gradient_accumulation_steps
        known = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
        known[options.name] = {**settings, **result, "environment": environment()}
        options.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    decisive = result["share_inside" if spec.device.kind == "cpu" else "share_of_pairs"]
    sys.exit(f"more than {ALLOWED:.0%}" if decisive > ALLOWED else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("keys", nargs="*", help="keys of the configuration to change")
    parser.add_argument("--updates", type=int, default=60, help="updates to time, half of them with the guards")
    parser.add_argument("--json", type=Path, help="file to write the result to, beside others in it")
    parser.add_argument("--name", default="run", help="the result's name in that file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
