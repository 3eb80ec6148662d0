"""Values that no configuration or row should be read with, and values that fit a key of the schema."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any

from finetune.config import json_schema

HUGE = 10**400
"""Beyond the largest float."""

SPECIAL = ("\x00", "\ud800", "\u202e", "\ufeff", "💥", "ﷺ", "\r", "\x1b[31m", "\x85", "[/bold]", "[bold", "%s{}{{", "\\")

STRINGS = ("", " ", "\n", "none", "null", "nan", "1e999", "24GiB", "0GiB", "1e9GiB", "9" * 5000, "a" * 20_000, "a" * 300,
           "../../etc/passwd", "/dev/null", "/proc/self/mem", "~", "~nobody/x", ".", "/", "rows.jsonl", "model",
           "no/such", "no.jsonl", "http://x:y@z/", "(a+)+$", "(", "os.system", "rules.all", "<think>")  # fmt: skip

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**31, 2**63, 2**64, HUGE, -HUGE, 0.0, -0.0, 0.5, 5e-324, 1e-9, 1e308, -1e308,
           math.inf, -math.inf, math.nan)  # fmt: skip


def odd(random: Random, depth: int = 0) -> Any:
    """Any value at all, lists and objects of such values included."""
    kind = random.randrange(10 if depth < 3 else 6)
    if kind < 2:
        return random.choice(STRINGS)
    if kind < 4:
        return random.choice(NUMBERS)
    if kind == 4:
        return random.choice((None, True, False))
    if kind == 5:
        text = random.choice(STRINGS[:8])
        return text + random.choice(SPECIAL) + random.choice(("", "x"))
    if kind < 8:
        return [odd(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 8:
        return {random.choice((*STRINGS[:12], "type", "path", 1, None)): odd(random, depth + 1) for _ in range(2)}
    return nested(random.choice((5, 50, 500)), random)


def nested(depth: int, random: Random) -> Any:
    """Lists or objects inside each other."""
    value: Any = random.choice((1, "x", None))
    as_list = random.random() < 0.5
    for _ in range(depth):
        value = [value] if as_list else {"a": value}
    return value


def keys_of(schema: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Every key of the configuration by its dotted name, with the schema of its value."""
    schema = schema or json_schema()
    return dict(_walk(schema, schema, ""))


def _walk(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in schema.get("properties", {}).items():
        value = _resolved(value, root)
        if "properties" in value and not prefix:
            yield from _walk(value, root, f"{name}.")
        else:
            yield f"{prefix}{name}", value


def _resolved(value: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in value:
        value = root["$defs"][value["$ref"].rpartition("/")[2]]
    for many in ("anyOf", "oneOf"):
        if many in value:
            value = {**value, many: [_resolved(one, root) for one in value[many]]}
    if "items" in value:
        value = {**value, "items": _resolved(value["items"], root)}
    return value


def fitting(schema: dict[str, Any], random: Random) -> Any:
    """A value that the schema of a key takes, at least as far as types and names go."""
    for many in ("anyOf", "oneOf"):
        if many in schema:
            return fitting(random.choice(schema[many]), random)
    if "enum" in schema:
        return random.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    if "properties" in schema:
        wanted = [name for name in schema["properties"] if name in schema.get("required", ()) or random.random() < 0.3]
        return {name: fitting(schema["properties"][name], random) for name in wanted}
    return {
        "integer": lambda: random.choice((0, 1, 2, 3, 4, 7, 8, 16, 64, 127, 511, 512, 513, 10**6, 2**31, 2**63, HUGE)),
        "number": lambda: random.choice((0, 0.0, 1e-4, 0.03, 0.5, 0.999, 1, 1.0, 2, 1e3, 1e308, 5e-324)),
        "boolean": lambda: random.random() < 0.5,
        "string": lambda: random.choice(("model", "rows.jsonl", "other.jsonl", "template.jinja", *STRINGS)),
        "array": lambda: [fitting(schema.get("items", {}), random) for _ in range(random.randrange(4))],
        "null": lambda: None,
    }.get(schema.get("type", "null"), lambda: odd(random))()
