"""Throws broken configurations, command lines, rows and run directories at the command line: every one ends in words.

scripts/fuzz [--cases N] [--seed N] [--json FILE]: never a traceback, always an exit code of the contract, an error
always with a hint, and with --json one JSON object on stdout and nothing else. Nothing is trained.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from attempts import make_tiny_model
from environment import environment

CODES = {0, 2, 3, 4, 5}
"""Exit codes of the contract; 1 is a fault of ours."""

LIMIT = 60
"""Seconds that one case may take."""

ODD = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.0, -0.5, 1e-300, 1e300, float("nan"), float("inf"),
    "", " ", "null", "auto", "none", "24GiB", "-1GiB", "0", "1e9999", "ü€𝄞", "a" * 5000, "../../etc/passwd", "/", ".",
    "~", "file://x", "http://[", "{{", "${HOME}", "%s", "\x1b[31m", [], [None], [[[]]], [1, "a"], {}, {"a": {"b": 1}},
    ["q_proj"], "all-linear", "q_proj", {"type": "nf4"},
]  # fmt: skip
"""Values that somebody puts where another belongs."""

WORDS = [
    "train", "preflight", "plan", "data", "check", "preview", "curate", "map", "needed", "senses", "fit", "predict",
    "eval", "chat", "report", "verify", "verify-resume", "doctor", "schema", "lab", "nothing", "--json", "--help",
    "--gpu", "T4", "24GiB", "24", "RTX 4090", "--max", "seq_len", "micro_batch_size", "rows", "--explain", "--data",
    "--examples", "0", "-5", "1e3", "--noise-scale", "nan", "--resume", "--dry-run", "--rule", "--without", "--out",
    "--", "-", "", "lora.r=8", "lora.r", "=", "=8", "a.b.c=1", "training.epochs=[", "lora.r=8 lora.r=9", "config.yaml",
    "missing.yaml", "rows.jsonl", "run", "model", ".", "--limit", "--word", "bank", "--show-mask", "--skip-bad", "x",
]  # fmt: skip

Case = tuple[str, list[str]]
"""What is tried, and the command line."""


class Fuzz:
    """Cases below one folder, which is the working directory."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        make_tiny_model(folder / "model")
        rows = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} it is"}]}
                for n in range(20)]  # fmt: skip
        self.rows = [json.dumps(row) for row in rows]
        (folder / "rows.jsonl").write_text("\n".join(self.rows) + "\n", encoding="utf-8")
        self.tree = {
            "model": {"name_or_path": "model", "attention": "sdpa", "dtype": "auto", "weights": "pretrained"},
            "quantization": {"type": "nf4", "double_quant": True, "compute_dtype": "float32"},
            "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "use_dora": False},
            "data": {"train": "rows.jsonl", "eval_fraction": 0.2, "max_length": 64, "packing": False, "format": "auto"},
            "training": {
                "method": "sft", "max_steps": 2, "micro_batch_size": 2, "learning_rate": 0.001, "save_steps": "auto",
                "optimizer": "adamw_torch", "warmup_ratio": 0.1, "lr_scheduler": "cosine", "seed": 1, "report_to": [],
            },
            "hardware": {"device": "cpu", "memory": "auto"},
            "output_dir": "out/run",
        }  # fmt: skip
        self.makers: list[tuple[int, Callable[[random.Random], Case]]] = [
            (30, self.broken_text), (30, self.broken_tree), (15, self.overrides), (12, self.words),
            (8, self.broken_rows), (5, self.broken_run),
        ]  # fmt: skip

    def cases(self, count: int) -> Iterator[Case]:
        """So many cases; the same ones for a seed."""
        for number in range(count):
            rng = random.Random(f"{self.seed} {number}")
            (make,) = rng.choices([make for _, make in self.makers], [weight for weight, _ in self.makers])
            yield make(rng)

    def broken_text(self, rng: random.Random) -> Case:
        """A configuration whose bytes are changed, moved, doubled or lost."""
        data = bytearray(yaml.safe_dump(self.tree, sort_keys=False).encode())
        for _ in range(rng.choice([1, 1, 2, 5, 40])):
            at, kind = rng.randrange(len(data) + 1), rng.randrange(5)
            if kind == 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                data[at:at] = rng.choice([b"\t", b"  ", b"\n", b":", b"- ", b"!!python/name:os.system ", b"&a *a",
                                          b"\0", b"<<: {}", b"---\n", b"'", b"\xff\xfe", b"? ", b"{"])  # fmt: skip
            elif kind == 2:
                del data[at : at + rng.randrange(1, 60)]
            elif kind == 3:
                data[at:at] = data[max(0, at - 40) : at]
            else:
                data = data[: max(at, 1)]
        return "text of a configuration", self._asked(rng, bytes(data))

    def broken_tree(self, rng: random.Random) -> Case:
        """A configuration with odd values, keys that nobody knows, and sections that are none."""
        tree = json.loads(json.dumps(self.tree))
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            section = rng.choice(list(tree))
            kind = rng.randrange(6)
            if kind == 0 or not isinstance(tree.get(section), dict):
                tree[section] = copy.deepcopy(rng.choice(ODD))
            elif kind == 1:
                tree[section][rng.choice(["nothing", "r ", "", "learning_rat", "🦙", "__class__"])] = copy.deepcopy(
                    rng.choice(ODD)
                )
            elif kind == 2 and tree[section]:
                del tree[section][rng.choice(list(tree[section]))]
            elif tree[section]:
                tree[section][rng.choice(list(tree[section]))] = copy.deepcopy(rng.choice(ODD))
        return "values of a configuration", self._asked(rng, yaml.safe_dump(tree, allow_unicode=True).encode())

    def overrides(self, rng: random.Random) -> Case:
        """Overrides of keys that are and are not, with values that fit and do not."""
        self._config(yaml.safe_dump(self.tree).encode())
        keys = [
            f"{section}.{key}" for section, fields in self.tree.items() if isinstance(fields, dict) for key in fields
        ]
        keys += ["lora", "output_dir", "training.nothing", "a.b.c.d", "", ".", "training.", "rewards", "rollout.top_p"]
        chosen = [f"{rng.choice(keys)}={self._written(rng)}" for _ in range(rng.choice([1, 1, 2, 3]))]
        return "overrides", [*self._command(rng), "config.yaml", *chosen, *rng.choice([[], ["--json"]])]

    def words(self, rng: random.Random) -> Case:
        """Words of the command line in any order."""
        self._config(yaml.safe_dump(self.tree).encode())
        words = [rng.choice(WORDS) for _ in range(rng.randrange(7))]
        if words[:1] in (["lab"], ["chat"], ["train"], ["verify-resume"]):  # what may take minutes, or asks a person
            words = [words[0], *(word for word in words[1:] if word != "config.yaml"), "nothing", "--nothing"]
        return "words of a command line", words

    def broken_rows(self, rng: random.Random) -> Case:
        """A file of rows with damaged lines."""
        lines = rng.sample(self.rows, 5)
        for _ in range(rng.choice([1, 2, 3])):
            at = rng.randrange(len(lines))
            lines[at] = rng.choice([
                "", "{", "[]", "null", "1", "\0", '{"messages": 3}', '{"messages": [{"role": 1}]}', '{"text": null}',
                '{"messages": [{"role": "user", "content": null}]}', '{"a": ' * 50, "[" * 2000, '{"text": "\\ud800"}',
                '{"text": "x", "text": "y"}', '{"prompt": "a", "completion": []}', "9" * 5000, '{"text": NaN}',
                lines[at][: len(lines[at]) // 2], lines[at] + lines[at], "\ufeff" + lines[at],
            ])  # fmt: skip
        suffix = rng.choice([".jsonl"] * 6 + [".json", ".csv", ".parquet", ".txt"])
        file = self.folder / f"broken{suffix}"
        text = "\n".join(lines) + "\n"
        file.write_bytes(text.encode("utf-8", "surrogatepass") if rng.random() < 0.9 else text.encode("utf-16"))
        self._config(yaml.safe_dump(self.tree | {"data": self.tree["data"] | {"train": file.name}}).encode())
        command = rng.choice([
            ["data", "check", file.name, "--json"], ["data", "check", file.name],
            ["data", "check", "config.yaml", "--json"],
            ["data", "preview", "config.yaml"], ["plan", "config.yaml", "--data", "--json"],
            ["data", "needed", file.name], ["senses", "fit", file.name, "--out", "sense"],
        ])  # fmt: skip
        return "rows", command

    def broken_run(self, rng: random.Random) -> Case:
        """A run directory that is none, or lacks what it should hold."""
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        for name in ("config.yaml", "report.json", "metrics.jsonl", "preflight.json", "receipt.json", "before.json"):
            (run / name).unlink(missing_ok=True)
            if rng.random() < 0.7:
                good = yaml.safe_dump(self.tree) if name == "config.yaml" else "{}"
                (run / name).write_text(rng.choice([good, good, "", "{", "[]", "null", "\0"]), encoding="utf-8")
        command = rng.choice(["report", "eval", "verify", "verify --json", "eval --json", "eval --forgetting"])
        return "run directories", [*command.split(), rng.choice(["run", "run", "run", "missing", "rows.jsonl", "."])]

    def _asked(self, rng: random.Random, config: bytes) -> list[str]:
        self._config(config)
        return [*self._command(rng), "config.yaml", *rng.choice([[], ["--json"]])]

    def _command(self, rng: random.Random) -> list[str]:
        return rng.choice([["preflight"], ["preflight"], ["plan", "--examples", "100"], ["preflight", "--gpu", "T4"],
                           ["data", "check"], ["preflight", "--max", "seq_len", "--gpu", "16GiB"]])  # fmt: skip

    def _written(self, rng: random.Random) -> str:
        value = copy.deepcopy(rng.choice(ODD))
        return value if isinstance(value, str) else rng.choice([str(value), json.dumps(value)])

    def _config(self, content: bytes) -> None:
        (self.folder / "config.yaml").write_bytes(content)


def attempt(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, in this process. A case beyond its time ends with code 1."""
    from finetune.cli import main

    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {LIMIT} s")

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    argv, sys.argv = sys.argv, ["finetune", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, out.getvalue(), err.getvalue()


def fault(words: list[str], code: int, out: str, err: str) -> str | None:
    """What is wrong with how a case ended; None where it ended as it should."""
    if "Traceback (most recent call last)" in err + out:
        return "a traceback"
    if code not in CODES:
        return f"exit code {code}"
    if code and "--help" not in words and "error:" not in err and not (code == 3 or code == 4 or out.strip()):
        return "no word of what is wrong"
    if "error:" in err and not re.search(r"hint: \S", err):
        return "an error without a hint"
    if "--json" in words and code == 0 and "--help" not in words:
        try:
            json.loads(out)
        except ValueError:
            return "more or less than one JSON value on stdout"
    return None


def run(cases: int, seed: int) -> dict[str, Any]:
    """Tries them; counts by kind and exit code, and every fault with its command line and what was said."""
    counts: Counter[tuple[str, int]] = Counter()
    faults, began, home = [], time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder), seed)
        os.chdir(folder)
        try:
            for number, (kind, words) in enumerate(fuzz.cases(cases)):
                code, out, err = attempt(words)
                counts[kind, code] += 1
                if wrong := fault(words, code, out, err):
                    config = (fuzz.folder / "config.yaml").read_bytes()[:3000].decode(errors="replace")
                    faults.append(
                        {"case": number, "fault": wrong, "words": words, "said": err[-1500:], "config": config}
                    )
        finally:
            os.chdir(home)
    rows = [{"kind": kind, "code": code, "cases": count} for (kind, code), count in sorted(counts.items())]
    return {"cases": cases, "seed": seed, "seconds": round(time.monotonic() - began), "rows": rows, "faults": faults}


def main() -> int:
    """Tries them, prints the counts; 1 where anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = run(asked.cases, asked.seed)
    for row in found["rows"]:
        print(f"{row['kind']:28}  exit {row['code']}  {row['cases']:6,}")
    for one in found["faults"]:
        print(f"FAULT {one['fault']} in case {one['case']}: {one['words']}\n{one['said']}", file=sys.stderr)
    print(f"{found['cases']:,} cases, {len(found['faults'])} faults, {found['seconds']} s")
    if asked.json:
        asked.json.write_text(json.dumps({"environment": environment(), **found}, indent=1) + "\n", encoding="utf-8")
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
