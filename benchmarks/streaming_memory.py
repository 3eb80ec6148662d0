"""Memory of `data.streaming` over a file and over one ten times as long; and what going on in the middle of one costs.

    python benchmarks/streaming_memory.py [--rows 300000] [--json benchmarks/results/streaming_memory.json]

Rows are those of rules_speed.py. Each line of the result is a process of its own that does what a run does with its
rows, and nothing else: packs of 2,048 tokens of a whole pass (`streamed`), or of all rows at once (`held`, of the
shorter file alone). Memory is the most that the process ever had resident, `imports_bytes` before it read a row.
`resume_seconds` is from a checkpoint's place in the last window to the next pack. Exits with 1 where ten times the rows
take a tenth more memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import REPO, environment
from rules_speed import write_rows

MORE = 1.1


def main() -> int:
    """Makes the files, measures, prints, writes; 1 where memory grows with the file."""
    options = _arguments()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1], options.measure[2])))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        _make_model(model)
        lines = {}
        for rows, ways in ((options.rows // 10, ("held", "streamed")), (options.rows, ("streamed",))):
            file = Path(folder) / f"{rows}.jsonl"
            write_rows(file, rows)
            lines |= {f"{way} {rows}": {"rows": rows, **_apart(file, model, way)} for way in ways}
    for name, line in lines.items():
        print(f"{name:<17} {line['bytes'] / 2**20:>6,.0f} MiB, {line['rows_a_second']:>7,.0f} rows/s")
    once, ten = (lines[f"streamed {rows}"] for rows in (options.rows // 10, options.rows))
    print(f"found in {ten['index_seconds']:.1f} s; goes on at the end of the file in {ten['resume_seconds']:.2f} s")
    if options.json:
        result = {"runs": lines, "environment": environment()}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(ten["bytes"] > MORE * once["bytes"])


def measure(file: Path, model: str, way: str) -> dict[str, Any]:
    """A pass over the rows of a file."""
    from finetune.config import RunConfig
    from finetune.data.encode import Encoder
    from finetune.data.packs import to_dataset
    from finetune.data.sources import read_splits
    from finetune.data.splits import encode_split
    from finetune.data.streaming import Stream
    from finetune.spec import load_tokenizer
    from finetune.spec.source import locate_model
    from finetune.training.memory import peak_resident

    data = {"train": str(file), "packing": True, "max_length": 2048, "streaming": way == "streamed"}
    run = RunConfig.model_validate(
        {"model": {"name_or_path": model}, "data": data, "training": {"max_steps": 1}, "output_dir": "none"}
    )
    encoder = Encoder(load_tokenizer(locate_model(run.model)), loss_on="assistant", max_length=2048)
    before, began = peak_resident(), time.perf_counter()
    if way == "held":
        split, _ = encode_split(read_splits(run.data, 0)["train"], "train", encoder, run.data)
        dataset = to_dataset(split.rows, packing=True, max_length=2048)
        return _figures(split.stats, len(dataset), time.perf_counter() - began) | {"imports_bytes": before}
    stream = Stream(run, encoder)
    index, began, packs = time.perf_counter() - began, time.perf_counter(), 0
    for _ in stream:
        packs += 1
        if stream.taken == 1:
            state = stream.state()
        if stream.at == stream.windows - 1 and stream.taken == len(stream.window(stream.at).dataset):
            break
    found = _figures(stream.seen.stats, packs, time.perf_counter() - began)
    again = Stream(run, encoder)
    began = time.perf_counter()
    again.restore(state)
    next(iter(again))
    resumed = time.perf_counter() - began
    return {**found, "imports_bytes": before, "index_seconds": round(index, 2), "resume_seconds": round(resumed, 2)}


def _figures(stats: Any, packs: int, seconds: float) -> dict[str, Any]:
    from finetune.training.memory import peak_resident

    speed = round(stats.rows / seconds)
    return {"tokens": stats.tokens, "packs": packs, "rows_a_second": speed, "bytes": peak_resident()}


def _apart(file: Path, model: Path, way: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(file), str(model), way]
    alone = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _make_model(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_tiny_model", REPO / "scripts" / "make_tiny_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(folder))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000, help="of the longer file")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
