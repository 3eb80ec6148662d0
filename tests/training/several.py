"""Runs of several processes, one after another in one launch; and how a test starts them.

python -m torch.distributed.run --standalone --nproc-per-node 2 several.py CONFIG CASES.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil

LIMIT = 120
"""Seconds after which a launch hangs."""

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "bf16", "--dynamo_backend", "no",
]  # fmt: skip


def train(config: Path, case: dict, processes: object = None, own: bool = True) -> Path:
    """One run; the faults of a case come to the last process alone, or to the one that there is, where `own`."""
    from rich.console import Console
    from test_nonfinite import spoil, tokens_of
    from test_oom import lack_memory

    from finetune import pipeline
    from finetune.config import load_config
    from finetune.processes import ALONE

    processes, output = processes or ALONE, config.parent / case["name"]
    build = pipeline.build_trainer

    models = []

    def built(spec, model, data, *rest):
        trainer = build(spec, model, data, *rest)
        models.append(model)
        assembly = SimpleNamespace(model=model, data=data)
        if case.get("lacking") and own and processes.rank == processes.count - 1:
            lack_memory(model, "backward", above=1, when=lambda: trainer.guards is not None and model.training)
        if case.get("spoilt"):
            spoil(assembly, tokens_of(assembly, *case["spoilt"]))
        if case.get("failing") and not processes.main:
            lack_memory(model, "backward", above=0, when=lambda: trainer.state.global_step == 4)
        return trainer

    pipeline.build_trainer = built
    try:
        shared = [f"hardware.shards={case['shards']}"] if case.get("shards") and not processes.alone else []
        loaded = load_config(config, [*case["keys"], *shared, f"output_dir={output}"])
        console = Console(stderr=True, quiet=not case.get("speaks"))
        pipeline.train(loaded, console, resume=case.get("resume", False), processes=processes)
    finally:
        pipeline.build_trainer = build
    held = [tensor.to_local().numel() for tensor in models[-1].parameters() if hasattr(tensor, "to_local")]
    if held:
        (output / f"held-{processes.rank}.json").write_text(json.dumps(held), encoding="utf-8")
    return output


@contextmanager
def launched(*command: object) -> Iterator[subprocess.Popen]:
    """A launch that is not left behind, nor any process of it."""
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    ) as process:
        try:
            yield process
        finally:
            kill_all(process)


def kill_all(process: subprocess.Popen) -> None:
    """Ends a launcher and all that it has started, as a power cut would."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    for one in [parent, *parent.children(recursive=True)]:
        one.kill()
    process.wait()


def finished(*command: object) -> tuple[int, str]:
    """Exit code and words of a launch."""
    with launched(*command) as process:
        said, _ = process.communicate(timeout=LIMIT)
        return process.returncode, said


def when_step(run: Path, step: int, process: subprocess.Popen, then: Callable[[], None]) -> str:
    """Calls `then` once the run has logged this step; what the launch has said, where it is over after that."""
    deadline, file = time.monotonic() + LIMIT, run / "metrics.jsonl"
    while not (file.is_file() and f'"step": {step},' in file.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the launch hangs"
        time.sleep(0.02)
    then()
    return "" if process.poll() is None else process.stdout.read()


def main() -> None:
    """All cases, in this process of several."""
    from finetune.cli.main import _fail, _quiet_libraries
    from finetune.config import load_config
    from finetune.errors import FinetuneError
    from finetune.processes import joined

    _quiet_libraries()
    config, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    try:
        with joined(load_config(config)) as processes:
            for case in cases:
                train(config, case, processes)
    except FinetuneError as error:
        _fail(error.message, error.hint, error.exit_code)


if __name__ == "__main__":
    main()
