"""YAML and command-line overrides in, a validated `RunConfig` out; every error at once."""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from finetune.config.curation import CurationConfig
from finetune.config.run import RunConfig
from finetune.config.sections import Section
from finetune.config.sweep import SweepConfig
from finetune.config.yaml_text import YamlError, parse
from finetune.errors import ConfigError
from finetune.regular_file import read_bytes

Validated = TypeVar("Validated", bound=Section)

LONGEST = 2**18
"""Bytes of a configuration; those that ship have 3,000."""

LISTED = 200
"""Faults that are looked at: a wrong file has one in every line."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Reads a YAML file, applies `section.key=value` overrides and validates all of it.

    Raises ConfigError naming every problem at once.
    """
    tree = _read_yaml(Path(path))
    for item in overrides:
        _apply_override(tree, item)
    return _validated(RunConfig, tree, f"{path}")


def load_curation(overrides: list[str] | tuple[str, ...] = ()) -> CurationConfig:
    """The section `curation:` alone, for a file of rows: its defaults and `curation.key=value` overrides.

    Raises ConfigError naming every problem at once, or an override of another section.
    """
    tree: dict[str, Any] = {}
    for item in overrides:
        if not item.startswith("curation."):
            hint = "a file of rows takes curation.key=value alone; other keys need a configuration"
            raise ConfigError(f"{_short(item)} does not set a key of curation", hint)
        _apply_override(tree, item)
    return _validated(_Curation, tree, "curation").curation


def load_sweep(path: str | Path) -> SweepConfig:
    """Reads the file of a sweep and validates all of it; the configuration it names is not looked at.

    Raises ConfigError naming every problem at once.
    """
    tree = _read_yaml(Path(path), "keys such as config: and search:")
    return _validated(SweepConfig, tree, f"{path}", "docs/sweep.md lists every key of a sweep")


def load_each(path: str | Path, changes: Sequence[Sequence[str]]) -> list[RunConfig]:
    """One configuration with each of many sets of overrides.

    Raises ConfigError naming every problem of all of them once, with the value that has it.
    """
    loaded, problems = [], dict[str, None]()
    for overrides in changes:
        try:
            loaded.append(load_config(path, tuple(overrides)))
        except ConfigError as error:
            _, *lines = error.message.splitlines()
            if not lines:
                raise
            problems |= dict.fromkeys(lines)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(problems)
        raise ConfigError(f"{path}: {count} with values to be tried\n{lines}", "`finetune schema` lists every key")
    return loaded


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key written out; `load_config` reads it back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the configuration, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}


class _Curation(Section):
    """A configuration that has no more than this section."""

    curation: CurationConfig = CurationConfig()


def _validated(
    model: type[Validated], tree: dict[str, Any], name: str, hint: str = "`finetune schema` lists every key"
) -> Validated:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = _problems(error, SweepConfig if model is SweepConfig else RunConfig)
        more = error.error_count() > LISTED
        lines = "\n".join(f"  {text}" for text in [*problems, *(["and more"] if more else [])])
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems" + (" and more" if more else "")
        raise ConfigError(f"{name}: {count} in the configuration\n{lines}", hint) from None


def _read_yaml(path: Path, expected: str = "sections such as model: and data:") -> dict[str, Any]:
    try:
        text = read_bytes(path, LONGEST).decode()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file", "give the path of a YAML file, such as configs/qlora_r16.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({reason})", "give the path of a YAML text file") from None
    try:
        tree = parse(text)
    except YamlError as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error}", "check indentation and colons") from None
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"{path}: expected {expected}, found {found}", "start from a file in configs/")
    return tree


def _apply_override(tree: dict[str, Any], item: str) -> None:
    key, sign, text = item.partition("=")
    hint = "overrides look like training.max_steps=20"
    if not sign or not key:
        raise ConfigError(f"{_short(item)} is not an override", hint)
    try:
        value = parse(text)
    except YamlError as error:
        raise ConfigError(f"{_short(item)}: the value is not valid YAML ({error})", hint) from None
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{_short(item)}: {section} is not a section", hint)
    tree[name] = value


def _problems(error: ValidationError, root: type[Section]) -> list[str]:
    """One line for each faulty key; the alternatives of a union share a line, unless one failed deeper inside."""
    found: dict[str, list[str]] = {}
    for detail in error.errors()[:LISTED]:
        where = ".".join(str(part) for part in _location(detail)) or "config"
        found.setdefault(where, []).append(_explain(where, detail, root))
    shallow = {where for where in found if any(other.startswith(f"{where}.") for other in found)}
    return [" or ".join(dict.fromkeys(lines)) for where, lines in found.items() if where not in shallow]


def _location(detail: dict[str, Any]) -> list[str | int]:
    """The key's place in the YAML, without pydantic's names for the alternatives of a union."""
    tags = ("str", "literal", "list", "function-", "constrained-")
    return [
        p
        for p in detail["loc"]
        if isinstance(p, int) or not (p in tags or p.startswith(("list[", "literal[", "function-", "constrained-")))
    ]


def _explain(where: str, detail: dict[str, Any], root: type[Section]) -> str:
    """What is wrong at `where`, with the value that was found."""
    if detail["type"] == "extra_forbidden":
        *parents, key = _location(detail)
        known = _known_keys(parents, root)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        near = near or (_elsewhere(str(key)) if root is RunConfig else [])
        return f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}")
    if detail["type"] == "missing":
        return f"{where}: is required"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message[0].lower()}{message[1:]}; found {_short(detail['input'])}"


def _sections() -> dict[str, type[Section]]:
    return {
        name: field.annotation
        for name, field in RunConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _known_keys(parents: list[str | int], root: type[Section]) -> list[str]:
    """Keys of `root` allowed below `parents`, following lists and unions of sections."""
    model: Any = root
    for part in parents:
        if part in model.model_fields:
            model = _section_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, Section)
    ):
        return annotation
    return next((found for arg in typing.get_args(annotation) if (found := _section_in(arg))), None)


def _elsewhere(key: str) -> list[str]:
    """The full name of a key that was written in the wrong section, or with its section's name before it."""
    full = [(section, name) for section, model in _sections().items() for name in model.model_fields]
    names = {name: f"{section}.{name}" for section, name in full}
    names |= {f"{section}_{name}": f"{section}.{name}" for section, name in full}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return [names[near[0]]] if near else []


def _short(value: Any) -> str:
    """A value as it was written, its middle left out where it is long."""
    return _SHORT.repr(value)
