"""Configurations from strangers: plain values within bounds, from a regular file, or refused in words and at once."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from pathlib import Path

import pytest

from finetune.config import load_config
from finetune.config.load import LONGEST
from finetune.config.yaml_text import DEEPEST, MOST_VALUES
from finetune.errors import ConfigError

REST = "data: {train: x}\noutput_dir: x\n"


@pytest.fixture
def fault(tmp_path: Path):
    """What is said of a configuration of these bytes, which is refused in under a second and 64 MiB."""

    def _fault(content: bytes | str) -> str:
        path = tmp_path / "config.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        began = time.process_time()
        tracemalloc.start()
        try:
            with pytest.raises(ConfigError) as caught:
                load_config(path)
            assert tracemalloc.get_traced_memory()[1] < 2**26
        finally:
            tracemalloc.stop()
        assert time.process_time() - began < 5
        assert caught.value.hint
        return caught.value.message.replace(str(path), "config.yaml")

    return _fault


@pytest.mark.parametrize(
    "tag", ["python/object/apply:os.system [id]", "python/name:os.system", "python/module:os", "python/tuple [1]", "x"]
)
def test_tags_make_no_objects(fault, tag):
    assert "line 1: not valid YAML: could not determine a constructor for the tag" in fault(f"model: !!{tag}\n")


def test_aliases_of_aliases(fault):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert f"its aliases stand for more than {MOST_VALUES:,} values" in fault("\n".join(lines))


def test_an_alias_of_what_it_is_a_part_of(fault):
    assert "config.yaml, line 1: not valid YAML: an alias stands for what it is a part of" in fault("model: &a [*a]\n")


@pytest.mark.parametrize(
    "text",
    ["model: {revision: a, revision: b}\n", "output_dir: a\noutput_dir: b\n", "model: {revision: a, 'revision': b}"],
)
def test_a_key_that_stands_twice_is_named(fault, text):
    assert re.search(r"not valid YAML: the key '(revision|output_dir)' stands twice", fault(text))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_values_inside_each_other(fault, opening):
    assert f"not valid YAML: more than {DEEPEST} levels inside each other" in fault("model: \n  " + opening * 20_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model: a\0b\n", "special characters are not allowed"),
        (
            b"model: \xff\xfe\n",
            "cannot be read ('utf-8' codec can't decode byte 0xff in position 7: invalid start byte)",
        ),
        (b"\xff\xfem\0o\0", "cannot be read ('utf-8' codec can't decode byte 0xff"),
        ("model: " + "9" * 5_000, "is no int"),
        ("model: " + "9" * 30, "an integer of more than 64 bits"),
        ("model: 2024-99-99", "'2024-99-99' is no timestamp"),
        ("<<: {model: x}\n" + REST, "merge keys (<<) are not read: write the keys out"),
        ("model: x\n---\nmodel: y\n", "but found another document"),
        (b"x" * (LONGEST + 1), f"cannot be read (it has more than {LONGEST:,} bytes)"),
        ("".join(f"k{n}: 1\n" for n in range(1_000)), "and more in the configuration"),
    ],
    ids=["NUL", "no UTF-8", "UTF-16", "5,000 digits", "30 digits", "no date", "merge", "two documents", "long", "keys"],
)
def test_a_text_that_is_no_configuration(fault, content, words):
    said = fault(content)
    assert words in said
    assert len(said) < 50_000


def test_what_is_no_file_is_not_waited_for(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    hint = "hint: give the path of a YAML text file"
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path / "link", "a pipe"), ("/dev/zero", "a device")):
        assert hint in refused(2, f"{path}: cannot be read (it is {kind})", "preflight", path)
    assert hint in refused(2, f"{tmp_path}: cannot be read (it is a directory)", "preflight", tmp_path)


@pytest.mark.parametrize("override", ["model=!!python/name:os.system", "model=&a [*a]", f"model={'[' * 5000}"])
def test_overrides_are_bounded_as_well(refused, config_file, override):
    refused(2, "the value is not valid YAML (", "preflight", config_file, override)
