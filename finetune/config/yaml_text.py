"""YAML that anybody may have written: plain values alone, within bounds, and no key twice."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml
from yaml.constructor import ConstructorError

DEEPEST = 32
"""Levels of lists and sections inside each other; a configuration has five. The parser recurses, and Python ends it at
a few hundred."""

LARGEST = 2**63
"""Integers are below this: no library that gets them holds more."""

MOST_VALUES = 100_000
"""Values in all once aliases are written out: nine lines of aliases to aliases stand for a thousand million."""


class YamlError(Exception):
    """The text is not YAML as a configuration is written; `line` counts from 1, None where it is the whole text."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def parse(text: str) -> Any:
    """The value of a YAML text. Raises YamlError."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise YamlError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise YamlError(str(getattr(error, "problem", None) or error), mark.line + 1 if mark else None) from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 2e-4 as a number (YAML 1.2), and refuses what has no place in a configuration."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self._depth == DEEPEST:
            mark = self.peek_event().start_mark
            raise ConstructorError(None, None, f"more than {DEEPEST} levels inside each other", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError):
            # PyYAML's own, of values that look like a date, a number or true: 2024-99-99, !!bool maybe.
            shown = f"{node.value[:60]!r} is no {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, shown, node.start_mark) from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if not -LARGEST <= value < LARGEST:
            raise ConstructorError(None, None, "an integer of more than 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        merge = next((key for key, _ in node.value if key.tag == "tag:yaml.org,2002:merge"), None)
        if merge:
            raise ConstructorError(None, None, "merge keys (<<) are not read: write the keys out", merge.start_mark)
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
            twice = next(key for key, number in keys.items() if number > 1)
            raise ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return mapping


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, each alias counted as what it stands for. Raises YamlError for one that holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        pairs = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_size(one, known) for one in pairs)
    elif not known[id(node)]:
        raise YamlError("an alias stands for what it is a part of", node.start_mark.line + 1)
    return known[id(node)]
