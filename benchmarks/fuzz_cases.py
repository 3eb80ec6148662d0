"""Cases of scripts/fuzz: a command line and the files it is run beside, made from a seed and a number.

Every case starts from files that are right (`Seeds`) and spoils some of them, or the command line, or neither: a share
has to go the whole way.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzz_values import SPECIAL, STRINGS, fitting, keys_of, nested, odd

KEYS = keys_of()

CONFIG: dict[str, Any] = {
    "model": {"name_or_path": "model"},
    "quantization": {"compute_dtype": "float32"},
    "lora": {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "data": {"train": "rows.jsonl", "eval": [{"path": "other.jsonl", "weight": 1.0}], "max_length": 128},
    "training": {"max_steps": 2, "micro_batch_size": 2, "learning_rate": 0.01, "optimizer": "adamw_torch"},
    "output_dir": "out",
}

YAML_WORDS = (b"!!python/object/apply:os.system [id]", b"!!binary |\n  aGk=", b"!!set {a, b}", b"&a [*a]", b"<<: *a",
              b"? [a]\n: b", b"2001-12-14t21:59:43.10-05:00", b"0o777", b"1_000", b"0x1F", b"1:30", b"-.inf", b".nan",
              b"%YAML 1.1\n---\n", b"---\n", b"...\n", b"\t", b"\xff\xfe", b"\x00", b"\xc3\x28", b"{{", b"[[[[", b"!!",
              b"&a", b"*a", b"|", b">-\n", b"'", b'"', b"#", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\u0000")  # fmt: skip

JSON_WORDS = (b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"null", b"[" * 2000, b'{"a":' * 2000, b'"\\ud800"', b"{}",
              b"[]", b'""', b"\x00", b"\xff", b"'", b",", b"}", b"\n", b'"messages"', b'"role"', b"true")  # fmt: skip


@dataclass(frozen=True)
class Seeds:
    """What is right: a model and a finished run, by file names below the directory of a case."""

    model: dict[str, bytes]
    run: dict[str, bytes]
    rows: bytes
    other: bytes


@dataclass
class Case:
    """One call of the program: `arguments` after its name, and files by their names, a directory's where bytes end."""

    kind: str
    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


def make_case(seeds: Seeds, seed: int, number: int) -> Case:
    """The case of a number: the same one whenever it is made."""
    random = Random(f"{seed}/{number}")
    kind = random.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    case = Case(kind, [], {"rows.jsonl": seeds.rows, "other.jsonl": seeds.other, "config.yaml": dumped(CONFIG)})
    case.files |= {f"model/{name}": content for name, content in seeds.model.items()}
    KINDS[kind][1](case, seeds, random)
    case.arguments = [one.replace("\x00", "") for one in case.arguments]  # no command line can hold these
    return case


def _config_bytes(case: Case, seeds: Seeds, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        case.files["config.yaml"] = spoiled(case.files["config.yaml"], YAML_WORDS, random)
    case.arguments = _with_config(random)


def _config_tree(case: Case, seeds: Seeds, random: Random) -> None:
    tree = copy.deepcopy(CONFIG)
    for _ in range(random.choice((1, 1, 2, 3))):
        _spoil_tree(tree, random)
    case.files["config.yaml"] = dumped(tree)
    case.arguments = _with_config(random)


def _overrides(case: Case, seeds: Seeds, random: Random) -> None:
    given = [_override(random) for _ in range(random.choice((1, 1, 2, 4)))]
    case.arguments = [*_with_config(random), *given]


def _sound(case: Case, seeds: Seeds, random: Random) -> None:
    """Nothing is wrong but, perhaps, that keys do not go together."""
    given = []
    for key in random.sample(sorted(KEYS), random.randrange(4)):
        given.append(f"{key}={_text(fitting(KEYS[key], random))}")
    case.arguments = [*_with_config(random, costly=True), *given]


def _command_line(case: Case, seeds: Seeds, random: Random) -> None:
    words = [*COMMANDS, *OPTIONS, *OPTIONS, *FILES, *FILES, *STRINGS, *SPECIAL, "3", "-1", "0", "24GiB", "T4", "lora.r=8"]
    words = [word for word in words if word not in ("train", "chat", "eval", "lab", "map", "needed", "senses")]
    start = random.choice(COMMANDS).split()
    case.arguments = [*start, *(random.choice(words) for _ in range(random.randrange(6)))]
    random.random() < 0.1 and random.shuffle(case.arguments)
    if case.arguments[:1] == ["lab"] or "senses" in case.arguments:
        case.arguments.append("--no-such-option")  # what they do is tested elsewhere and takes a while
    if case.arguments[:1] == ["train"]:
        case.arguments.append("--dry-run")


def _rows(case: Case, seeds: Seeds, random: Random) -> None:
    kind = random.choice((".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".txt", ".ndjson"))
    content = _as_file(seeds.rows, kind, random)
    for _ in range(random.choice((0, 1, 1, 2, 10))):
        content = spoiled(content, JSON_WORDS, random)
    case.files[f"odd{kind}"] = content
    _read_it(case, f"odd{kind}", random)


def _row_values(case: Case, seeds: Seeds, random: Random) -> None:
    rows = [json.loads(line) for line in seeds.rows.splitlines()]
    for row in random.sample(rows, random.choice((1, 2, len(rows)))):
        _spoil_tree(row, random)
    case.files["odd.jsonl"] = "".join(f"{_json(row)}\n" for row in rows).encode("utf-8", "surrogatepass")
    _read_it(case, "odd.jsonl", random)


def _run_directory(case: Case, seeds: Seeds, random: Random) -> None:
    case.files |= {f"run/{name}": content for name, content in seeds.run.items()}
    name = random.choice([name for name in seeds.run if not name.endswith((".html", ".md"))])
    _spoil_file(case, f"run/{name}", random)
    command = random.choices((["report"], ["eval"], ["chat", "--prompt", "Hi"]), (8, 1, 1))[0]
    case.arguments = [*command, "run", *random.choice(([], [], ["--json"], ["data.max_length=4"]))]


def _model_directory(case: Case, seeds: Seeds, random: Random) -> None:
    _spoil_file(case, f"model/{random.choice(list(seeds.model))}", random)
    case.arguments = _with_config(random, costly=True)


KINDS: dict[str, tuple[int, Callable[[Case, Seeds, Random], None]]] = {
    "configuration as bytes": (25, _config_bytes),
    "configuration as a tree": (20, _config_tree),
    "overrides": (15, _overrides),
    "sound keys": (4, _sound),
    "command line": (12, _command_line),
    "file of rows": (8, _rows),
    "values of rows": (8, _row_values),
    "run directory": (5, _run_directory),
    "model directory": (3, _model_directory),
}
"""Kinds of cases, with the share of each in percent."""

COMMANDS = ("train", "preflight", "plan", "lab", "eval", "chat", "report", "doctor", "schema", "data", "data check",
            "data curate", "data map", "data needed", "data preview", "data senses", "senses fit", "senses predict")  # fmt: skip
OPTIONS = ("--json", "--gpu", "--max", "seq_len", "--data", "--examples", "--explain", "--resume", "--dry-run", "--out",
           "--rows", "--rule", "--without", "--skip-bad", "--show-mask", "--label", "--text", "--limit", "--losses",
           "--method", "--color", "--encoder", "--noise-scale", "--help", "--", "-", "--no", "--forgetting")  # fmt: skip
FILES = ("config.yaml", "rows.jsonl", "model", "no/such.yaml", "no.jsonl", "run", ".", "config.yaml/x", "/dev/null")


def _with_config(random: Random, *, costly: bool = False) -> list[str]:
    """A command that reads the configuration; rarely one that takes a second where nothing is wrong with it."""
    cheap = (["data", "check", "config.yaml", *random.choice(([], ["--json"], ["--show-mask"]))], ["data", "preview", "config.yaml"])
    long = (["preflight", "config.yaml", *random.choice(([], ["--json"], ["--data"], ["--explain"], ["--gpu", "T4"], ["--max", "seq_len"]))],
            ["plan", "config.yaml", *random.choice(([], ["--json"], ["--examples", "100"], ["--noise-scale", "3"]))],
            ["data", "curate", "config.yaml", "--out", "curated"],
            ["train", "config.yaml", "--dry-run"])  # fmt: skip
    return list(random.choice(long if costly or random.random() < 0.5 else cheap))


def _read_it(case: Case, name: str, random: Random) -> None:
    """A command that reads a file of rows."""
    direct = (["data", "check", name], ["data", "check", name, "--json"], ["data", "curate", name, "--out", "curated"],
              ["data", "check", name, "--skip-bad", "bad.jsonl"], ["data", "needed", name, "--label", "messages"],
              ["data", "senses", name, "--terms", "rows.jsonl"], ["senses", "predict", "run", name],
              ["senses", "fit", name, "--out", "fitted"], ["data", "senses", "rows.jsonl", "--terms", name])  # fmt: skip
    through = (["data", "check", "config.yaml"], ["data", "check", "config.yaml", "--json"], ["data", "preview", "config.yaml"])
    if random.random() < 0.6:
        case.arguments = list(random.choice(direct))
        return
    method = random.choice(("", "", "training.method=dpo", "data.format=messages", "data.format=text", "data.packing=true"))
    case.arguments = [*random.choice(through), f"data.train={name}", *([method] if method else [])]


def _override(random: Random) -> str:
    key = random.choice(sorted(KEYS))
    if random.random() < 0.2:
        key = random.choice((key + "s", key.replace(".", ".."), key.split(".")[0], f"{key}.more", "", ".", "a.b.c.d", key[:-1]))
    value = _text(fitting(KEYS[key], random) if key in KEYS and random.random() < 0.5 else odd(random))
    return random.choice((f"{key}={value}",) * 8 + (key, f"{key}=", f"={value}", f"{key}:{value}"))


def _spoil_tree(tree: Any, random: Random) -> None:
    """Changes one value below a tree of objects and lists, adds a key or takes one away."""
    at = tree
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = random.choice(keys) if keys else None
        if key is not None and isinstance(at[key], dict | list) and at[key] and random.random() < 0.75:
            at = at[key]
            continue
        break
    if isinstance(at, dict) and random.random() < 0.25:
        at[random.choice((*STRINGS[:10], *SPECIAL, "r", "path", "role", "text", "weight", "tools"))] = odd(random)
    elif key is not None and random.random() < 0.15:
        del at[key]
    elif key is not None:
        at[key] = nested(random.choice((100, 600)), random) if random.random() < 0.05 else odd(random)


def _spoil_file(case: Case, name: str, random: Random) -> None:
    if random.random() < 0.05:
        del case.files[name]
    elif name.endswith(".json") and random.random() < 0.6:
        tree = json.loads(case.files[name])
        for _ in range(random.choice((1, 1, 3))):
            _spoil_tree(tree, random)
        case.files[name] = _json(tree).encode("utf-8", "surrogatepass")
    else:
        for _ in range(random.choice((1, 1, 5))):
            case.files[name] = spoiled(case.files[name], JSON_WORDS + YAML_WORDS, random)


def spoiled(content: bytes, words: tuple[bytes, ...], random: Random) -> bytes:
    """One change to bytes: a word put in or over, a bit flipped, a piece cut out or repeated, the end cut off."""
    start = random.randrange(len(content) + 1)
    end = min(len(content), start + random.choice((1, 2, 8, 64)))
    word = random.choice(words)
    match random.randrange(7):
        case 0:
            return content[:start] + word + content[start:]
        case 1:
            return content[:start] + word + content[end:]
        case 2:
            return content[:start] + bytes([random.randrange(256)]) + content[start + 1 :]
        case 3:
            return content[:start] + content[end:]
        case 4:
            return content[:end] + content[start:]
        case 5:
            return content[:start]
    lines = content.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines)


def _as_file(rows: bytes, kind: str, random: Random) -> bytes:
    values = [json.loads(line) for line in rows.splitlines()]
    if kind == ".json":
        return json.dumps(values).encode()
    if kind == ".csv":
        return b"prompt,completion\n" + b"".join(f'"ask {n}","word {n}, end"\n'.encode() for n in range(len(values)))
    if kind == ".parquet":
        import io

        import pyarrow
        import pyarrow.parquet

        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), out)
        return out.getvalue()
    if kind.endswith(".gz"):
        import gzip

        return gzip.compress(rows)
    return rows


def dumped(tree: Any) -> bytes:
    try:
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    except RecursionError:
        return json.dumps(tree).encode()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip() if not _deep(value) else "[" * 3000


def _deep(value: Any, depth: int = 0) -> bool:
    if depth > 300:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_deep(one, depth + 1) for one in inner)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def seeds_of(folder: Path) -> Seeds:
    """What `folder` holds: `model/`, a finished `run/`, rows.jsonl and other.jsonl."""

    def files(name: str) -> dict[str, bytes]:
        root = folder / name
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    return Seeds(files("model"), files("run"), *((folder / name).read_bytes() for name in ("rows.jsonl", "other.jsonl")))
