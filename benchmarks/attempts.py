"""Short runs of a tiny model, each in a process of its own that can be killed; forked, so that nothing is imported
again. Used by chaos.py and faults.py."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from environment import REPO
from faulty_disk import FaultyDisk

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # set before torch is there: a fork must not inherit half a pool of threads

WORDS = ("red", "green", "blue", "seven", "twelve", "north", "south", "glass", "stone", "river")

COMMON = [
    "quantization.compute_dtype=float32", "lora={r: 4, alpha: 8, dropout: 0.1}", "data.max_length=96",
    "training.micro_batch_size=2", "training.gradient_accumulation_steps=2", "training.learning_rate=0.01",
    "training.max_steps=8", "training.save_steps=1", "training.logging_steps=3", "training.sample_answers=1",
    "training.sample_max_new_tokens=2", "training.optimizer=adamw_torch",
]  # fmt: skip

ROLLOUT = [
    "rollout={num_generations: 4, max_completion_length: 6, trial_prompts: 2, eval_prompts: 2}",
    "rewards=[{type: regex, pattern: '[aeiou]'}, {type: length, max: 12, unit: characters}]",
    "training.max_steps=4", "training.logging_steps=2",
]  # fmt: skip

SCENARIOS = {
    "sft": ["training.eval_steps=3", "training.noise_scale=true"],
    "packed": ["data.packing=true", "training.optimizer=adamw_8bit", "lora.r=128"],
    "streaming": ["data.streaming=true", "data.packing=true", "training.max_steps=12", "training.save_steps=3"],
    "dpo": ["training.method=dpo", "training.eval_steps=3"],
    "rloo": ["training.method=rloo", *ROLLOUT],
    "short": ["training.max_steps=4"],
    "grpo": ["training.method=grpo", *ROLLOUT],
}
"""Overrides of each kind of run; 8-bit state begins at 4,096 elements, hence the rank."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit code (negative: the signal that killed it), what it said, and its seconds."""

    code: int
    said: str
    seconds: float


class Runs:
    """Runs of one scenario below a folder, all on the same model and rows."""

    def __init__(self, folder: Path, scenario: str) -> None:
        self.folder, self.scenario = folder, scenario
        folder.mkdir(parents=True, exist_ok=True)
        self.model = folder / "model"
        if not self.model.exists():
            make_tiny_model(self.model)
        online = "rewards" in " ".join(SCENARIOS[scenario])
        for name, numbers in (("train", range(1, 25)), ("eval", range(25, 29))):
            rows = [_row(scenario if scenario == "dpo" else "prompt" if online else "sft", n) for n in numbers]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}-{scenario}.jsonl").write_text(text, encoding="utf-8")

    def attempt(
        self, name: str, *, resume: bool, disk: FaultyDisk | None = None, kill_after: float | None = None
    ) -> Outcome:
        """One process that trains `name`, on this disk. It is killed after so many seconds."""
        read, write = os.pipe()
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)
            os._exit(self._child(name, resume, disk))
        os.close(write)
        status = None
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read().decode(errors="replace")  # to its end, which is that of the process
        _, status = os.waitpid(pid, 0)
        return Outcome(os.waitstatus_to_exitcode(status), said, time.monotonic() - began)

    def _child(self, name: str, resume: bool, disk: FaultyDisk | None) -> int:
        from rich.console import Console

        from finetune import pipeline
        from finetune.errors import FinetuneError

        try:
            config = self._config(name)
            if disk:
                disk.install()
            pipeline.train(config, Console(file=sys.stderr, width=400), resume=resume)
            if disk:
                print(f"operations: {json.dumps(disk.log)}", file=sys.stderr)
        except FinetuneError as error:
            print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
            return error.exit_code
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    def _config(self, name: str):
        from finetune.config import load_config

        file = self.folder / "config.yaml"
        files = {role: self.folder / f"{role}-{self.scenario}.jsonl" for role in ("train", "eval")}
        data = f"{{train: {files['train']}, eval: {files['eval']}}}"
        file.write_text(
            f"model: {{name_or_path: {self.model}}}\ndata: {data}\noutput_dir: {self.folder / name}\n", encoding="utf-8"
        )
        return load_config(file, [*COMMON, *SCENARIOS[self.scenario]])

    def operations(self) -> list[str]:
        """What a run does to the disk, in order."""
        outcome = self.attempt("counted", resume=False, disk=FaultyDisk(self.folder / "counted"))
        return json.loads(re.search(r"^operations: (.*)$", outcome.said, re.MULTILINE)[1])

    def adapter(self, name: str) -> bytes:
        """The trained weights of a finished run."""
        return (self.folder / name / "adapter" / "adapter_model.safetensors").read_bytes()

    def curve(self, name: str) -> list[dict]:
        """What metrics.jsonl says, without what depends on the clock and the machine."""
        lines = (self.folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        measured = ("seconds", "tokens_per_second", "memory_bytes")
        return [{key: value for key, value in json.loads(line).items() if key not in measured} for line in lines]


def warm_up() -> None:
    """Imports all that a run needs, once for all forks."""
    import trl.trainer.dpo_trainer
    import trl.trainer.grpo_trainer
    import trl.trainer.rloo_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    import finetune.data.blocks
    import finetune.data.streaming
    import finetune.pipeline
    import finetune.training.keeper
    import finetune.training.online
    import finetune.training.preference
    import finetune.training.supervised

    finetune.training.keeper.PATIENCE = 0.01
    # Windows of eight rows in blocks of two: the few rows of a run are several windows, gone through more than once.
    finetune.data.blocks.BLOCK, finetune.data.streaming.WINDOW = 2, 8 * 96


def good_checkpoints(run: Path) -> set[int]:
    """Steps of the checkpoints whose every file is as its manifest says, looked at without finetune's own code."""
    return {int(path.name.split("-")[1]) for path in run.glob("checkpoints/checkpoint-*") if _good(path)}


def went_on_from(said: str) -> int | None:
    """The step of the checkpoint that a process says it goes on from; 0 where it began again."""
    found = re.search(r"goes on from checkpoint-(\d+)|(begins again)", said)
    return None if not found else int(found[1] or 0)


def _good(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
        return bool(files) and all(
            hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() == entry["sha256"]
            for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _row(kind: str, n: int) -> dict:
    word = WORDS[n % len(WORDS)]
    if kind == "dpo":
        return {"prompt": f"Say {word} {n}.", "chosen": word, "rejected": f"{word} " * (1 + n % 4)}
    if kind == "prompt":
        return {"prompt": f"Say {word} {n}.", "answer": word}
    return {"prompt": f"Say {word} {n}.", "completion": f"{word} " * (1 + n % 7) + "end"}


def make_tiny_model(folder: Path) -> None:
    """The tests' model: two layers of random weights and a tokenizer (scripts/make_tiny_model.py)."""
    path = REPO / "scripts" / "make_tiny_model.py"
    spec = importlib.util.spec_from_file_location("make_tiny_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(folder))
