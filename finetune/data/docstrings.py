"""The quickstart's data set: questions and answers from the docstrings of the installed standard library.

    python -m finetune.data.docstrings OUT_DIR

writes `OUT_DIR/train.jsonl` and `OUT_DIR/eval.jsonl`, one conversation in messages format a line. The rows depend
on the Python version and on nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune.data.docstring_source import Entry, entries
from finetune.data.docstring_text import answer
from finetune.errors import ConfigError, FinetuneError

MIN_ROWS = 1000  # fewer means that sources are missing (stripped or zipped), not that Python shrank
MAX_SIGNATURE = 60  # characters; a longer one drowns the question

QUESTIONS = {
    "module": ("What is the Python module `{name}` for?", "What does the `{name}` module do?"),
    "class": ("What is `{name}` in Python?", "What is the class `{name}` for?"),
    "function": ("What does `{call}` do in Python?", "What does the function `{name}` do?", "Explain `{call}`."),
    "method": ("What does the method `{call}` do?", "What does `{name}` do in Python?", "Explain `{call}`."),
    "property": ("What is the property `{name}`?", "What does `{name}` hold in Python?"),
}


def build() -> dict[str, list[dict]]:
    """The rows of both splits, `{"train": [...], "eval": [...]}`; a top-level module is in one of them only.

    Raises ConfigError where this Python came without the sources of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    # Shuffled by hash, so that the first n rows are a fair sample.
    answered = sorted(_answered(entries(root)), key=lambda entry: _hash(entry.name))
    if len(answered) < MIN_ROWS:
        raise ConfigError(
            f"{root} has only {len(answered)} usable docstrings",
            "this Python came without the sources of its standard library; use one that has them",
        )
    train = [entry for entry in answered if not _held_out(entry.name)]
    known = [_trigrams(entry.text) for entry in train]
    held_out = [entry for entry in answered if _held_out(entry.name) and not _repeats(entry.text, known)]
    return {"train": [_row(entry) for entry in train], "eval": [_row(entry) for entry in held_out]}


def save(splits: dict[str, list[dict]], out_dir: Path) -> None:
    """Writes each split to `out_dir`, which is made where it is missing; a file appears whole or not at all.

    Raises ConfigError where `out_dir` cannot be written.
    """
    partial = {split: out_dir / f"{split}.jsonl.partial" for split in splits}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            partial[split].write_text(lines, encoding="utf-8", newline="\n")
        for split, path in partial.items():
            path.replace(out_dir / f"{split}.jsonl")
    except OSError as error:
        raise ConfigError(f"cannot write to {out_dir}: {error.strerror}", "name a directory you can write") from None
    finally:
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink()


def _answered(found: Iterable[Entry]) -> Iterator[Entry]:
    """The public entries that have an answer, which becomes their text; of equal answers, that of the shortest name.

    The shortest is mostly the best known: `str.split` before `str.rsplit`.
    """
    seen = set()
    for entry in sorted(found, key=lambda entry: (len(entry.name), entry.name)):
        text = answer(entry.text)
        key = re.sub(r"\W+", "", text).lower()
        if text and "._" not in f".{entry.name}" and entry.name not in seen and key not in seen:
            seen |= {entry.name, key}
            yield entry._replace(text=text)


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _held_out(name: str) -> bool:
    """One top-level module in ten is held out."""
    top = name.partition(".")[0]
    return _hash(top if top in sys.stdlib_module_names else "builtins") % 10 == 3


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def _repeats(text: str, known: list[set[tuple[str, ...]]]) -> bool:
    """Whether one known answer has more than half the word trigrams of the text (`queue` and `asyncio.Queue`)."""
    own = _trigrams(text)
    return any(2 * len(own & other) > len(own) for other in known)


def _row(entry: Entry) -> dict:
    templates = QUESTIONS[entry.kind]
    # Sentinels and placeholders in a signature say nothing to a reader.
    plain = len(entry.signature) <= MAX_SIGNATURE and not re.search(r"^\(self|=_|<|object\(|\$", entry.signature)
    call = entry.name + entry.signature if plain else entry.name
    question = templates[_hash(entry.name) % len(templates)].format(name=entry.name, call=call)
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": entry.text}]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m finetune.data.docstrings", description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    out_dir = parser.parse_args().out_dir
    try:
        splits = build()
        save(splits, out_dir)
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    counts = ", ".join(f"{len(rows):,} rows in {split}.jsonl" for split, rows in splits.items())
    print(f"{out_dir}: {counts}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
