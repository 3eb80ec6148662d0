"""The quickstart's rows: reproducible, cleanly split, fit to read."""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from finetune.data import docstrings
from finetune.data.docstring_text import answer
from finetune.errors import ConfigError

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("docstrings") / "new" / "directory"
    docstrings.save(docstrings.build(), out_dir)
    return out_dir


@pytest.fixture(scope="module")
def pairs(written):
    """{"train": [(question, answer), ...], "eval": ...}, as a reader of the files gets them."""

    def read(split):
        rows = [json.loads(line) for line in (written / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for row in rows:
            assert list(row) == ["messages"] and [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        return [tuple(turn["content"] for turn in row["messages"]) for row in rows]

    return {"train": read("train"), "eval": read("eval")}


def name_in(question):
    return re.search(r"`([\w.]+)", question)[1]


def modules(pairs):
    tops = {name_in(question).partition(".")[0] for question, _ in pairs}
    return {top if top in sys.stdlib_module_names else "builtins" for top in tops}


def words(text):
    return re.findall(r"\w+", text.lower())


def test_command_writes_the_same_bytes_under_another_hash_seed_locale_and_directory(written, tmp_path):
    environment = os.environ | {"PYTHONHASHSEED": "4711", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "finetune.data.docstrings", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    for name in ("train.jsonl", "eval.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (written / name).read_bytes()
    assert done.stdout == ""
    assert re.fullmatch(r"out: \d,\d{3} rows in train\.jsonl, \d{3} rows in eval\.jsonl", done.stderr.splitlines()[-1])


def test_nothing_but_the_two_files_is_left(written):
    assert sorted(path.name for path in written.iterdir()) == ["eval.jsonl", "train.jsonl"]


def test_thousands_of_rows_and_a_tenth_or_less_held_out(pairs):
    assert 3000 <= len(pairs["train"]) <= 8000
    assert 150 <= len(pairs["eval"]) <= 400
    assert {"urllib", "itertools", "functools", "re", "queue", "weakref", "uuid", "pprint"} <= modules(pairs["eval"])


def test_no_module_is_in_both_splits(pairs):
    assert not modules(pairs["train"]) & modules(pairs["eval"])


def test_no_question_and_no_answer_stands_twice(pairs):
    rows = pairs["train"] + pairs["eval"]
    assert len({question for question, _ in rows}) == len(rows)
    assert len({" ".join(words(text)) for _, text in rows}) == len(rows)


def test_no_held_out_answer_is_mostly_a_train_answer(pairs):
    def trigrams(text):
        return {*zip(words(text), words(text)[1:], words(text)[2:], strict=False)}

    known = [trigrams(text) for _, text in pairs["train"]]
    for grams in (trigrams(text) for _, text in pairs["eval"]):
        assert all(2 * len(grams & other) <= len(grams) for other in known), grams


def test_answers_are_complete_sentences_without_markup(pairs):
    for question, text in pairs["train"] + pairs["eval"]:
        assert 20 <= len(text) <= 400, question
        assert text == " ".join(text.split())
        assert re.search(r"[.!?]['\")`]*$", text), (question, text)
        assert not re.search(r">>>|(?<!\.)\.\. \w|:\w+:`|``|>`_|XXX|TODO|:param", text), (question, text)


def test_questions_use_the_names_that_people_import(pairs):
    questions = [question for question, _ in pairs["train"] + pairs["eval"]]
    names = {name_in(question) for question in questions}
    assert {"json.dumps", "str.split", "asyncio.gather", "concurrent.futures.Executor", "os.path.join"} <= names
    assert {"pathlib.Path.mkdir", "datetime.date.today", "collections.abc.Mapping", "len", "math.sqrt"} <= names
    assert not [name for name in names if re.search(r"(^|\.)_|^(asyncio\.tasks\.|test\b|idlelib|tkinter)", name)]
    assert "What does `textwrap.fill(text, width=70, **kwargs)` do in Python?" in questions
    assert not [question for question in questions if re.search(r"\(self\b|0x|<", question)]


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Return the length\n    of x", "Return the length of x."),
        ("dumps(obj) -> str\n\nSerialise ``obj`` to text.", "Serialise `obj` to text."),
        (
            "pop(k) -> v, remove the key and return the\nvalue.\n\nRaise KeyError if absent.",
            "Raise KeyError if absent.",
        ),
        ("fill(text) -- Wrap a paragraph of text.", "Wrap a paragraph of text."),
        ("Handle one request\nSubclasses may extend this.", "Handle one request. Subclasses may extend this."),
        ("Wraps :func:`~a.b.call` and :class:`C`.", "Wraps `a.b.call` and `C`."),
        ("Add *two* numbers, e.g. 1 and 2.\n\n>>> add(1, 2)\n3", "Add two numbers, e.g. 1 and 2."),
        ("Sort the list in place.\n\n:param key: a function\n", "Sort the list in place."),
        ("Sort the list in place. See the module docs.", "Sort the list in place."),
        ("Sort the list in place. It takes these keys:\n  a  b", "Sort the list in place."),
        ("First of three parts.\n\nSecond of them.\n\nThird of them.", "First of three parts. Second of them."),
        ("Internal use only, not for you.", ""),
        ("Deprecated since 3.2, use other().", ""),
        ("TODO: say what this does.", ""),
        ("range(stop) -> range object", ""),
        ("Return self.", ""),
        ("", ""),
    ],
)
def test_answer(docstring, text):
    assert answer(docstring) == text


def test_answer_is_cut_at_a_sentence():
    sentence = "This sentence has exactly fifty characters, I say."
    assert answer(" ".join([sentence] * 20)) == " ".join([sentence] * 7)


@pytest.mark.parametrize("out_dir", ["file", "file/below"])
def test_unwritable_directory(tmp_path, out_dir):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError) as caught:
        docstrings.save({"train": [], "eval": []}, tmp_path / out_dir)
    assert caught.value.message.startswith(f"cannot write to {tmp_path / out_dir}: ")
    assert caught.value.hint == "name a directory you can write"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]


def test_failed_write_leaves_the_old_files_whole(tmp_path):
    (tmp_path / "train.jsonl").write_text("old")
    (tmp_path / "eval.jsonl.partial").mkdir()  # so that the second file cannot be written
    with pytest.raises(ConfigError, match=r"cannot write to .*: Is a directory"):
        docstrings.save({"train": [], "eval": []}, tmp_path)
    assert (tmp_path / "train.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.jsonl.partial", "train.jsonl"]


def test_python_without_library_sources(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["docstrings", str(tmp_path / "out")])
    assert docstrings.main() == 2
    error = capsys.readouterr().err
    assert re.search(rf"^error: {re.escape(str(tmp_path))} has only \d+ usable docstrings$", error, re.MULTILINE)
    assert "hint: this Python came without the sources of its standard library" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["docstrings", "docstring_source", "docstring_text"])
def test_imports_the_standard_library_alone(name):
    tree = ast.parse((REPO / "finetune" / "data" / f"{name}.py").read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported = froms | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    others = {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names}
    assert others <= {"finetune.errors", "finetune.data.docstring_source", "finetune.data.docstring_text"}
