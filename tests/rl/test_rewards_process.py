"""A function of the user's in a process of its own: what it is given, and all it may do wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from repo import REPO

from finetune.config import RewardConfig
from finetune.errors import ConfigError
from finetune.rl.rewards import Completion, Scorer, make_scorers

USER = '''\
import ctypes, os, re, sys, threading, time


def right(prompt, completion, answer):
    return completion == f"{prompt}{answer}"


def given(completion, **columns):
    """All it was given, told by an exception."""
    raise ValueError(sorted(columns.items()))  # all of it


def level(completion, level, bonus=1):
    return level + bonus


def clean(completion):
    return not {"torch", "finetune", "gymnasium"} & {name.split(".")[0] for name in sys.modules}


def first(completion):
    return completion[0] == "f"


def kind(completion):
    import numpy as np

    return eval(completion)


def stuck(completion):
    while completion == "loop": pass
    if completion == "sleep":
        time.sleep(60)
    if completion == "backtrack":  # holds the interpreter's lock
        re.search("(a|aa)+$", "a" * 60 + "b")
    return 1


def ends(completion):
    if completion == "exit":
        sys.exit("enough")
    if completion == "_exit":
        os._exit(7)
    if completion == "crash":
        ctypes.string_at(0)
    if completion == "kill":
        os.kill(os.getpid(), 9)
    if completion == "recurse":
        ends(completion)
    if completion == "flood":
        print("x" * 10_000_000)
    if completion == "input":
        input()
    if completion == "library":
        re.compile("(")
    if completion == "long":
        raise ValueError("x" * 1_000_000)
    if completion == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
    return 1


class Word:
    def __call__(self, completion):
        return 0.5

    def __len__(self):
        return 0

    def method(self, completion):
        return 0.25


word = Word()
method = word.method
pid = lambda completion: os.getpid()
'''


def place(words: str) -> str:
    """How the first line with these words is named, of the user's file."""
    return f"(user_rewards.py line {USER[: USER.index(words)].count(chr(10)) + 1})"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Scorers of functions in rewards.py of the working directory, closed in the end."""
    (tmp_path / "user_rewards.py").write_text(USER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    made: list[Scorer] = []

    def _scorer(function: str, timeout: float = 30.0) -> Scorer:
        made.extend(make_scorers([RewardConfig(type="python", function=function, timeout=timeout)]))
        return made[-1]

    yield _scorer
    for one in made:
        one.close()


def written(text: str, own_answer: str | None = None, **columns) -> Completion:
    return Completion("What?", text, 1, "rows.jsonl line 3", own_answer, columns)


def fault(one: Scorer, completion: Completion) -> str:
    assert one.score([completion]) == [None]
    where, _, words = one.faults[0].partition(": ")
    assert (where, len(one.faults)) == ("rows.jsonl line 3", 1)
    return words


def test_the_process_is_one_and_has_nothing_of_ours(user) -> None:
    assert user("user_rewards.clean").score([written("")]) == [1]
    one = user("user_rewards.pid")
    pids = one.score([written("")] * 3) + one.score([written("")])
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()
    one.close()
    assert not psutil.pid_exists(int(pids[0]))


def test_it_is_given_what_its_signature_takes(user) -> None:
    right = user("user_rewards.right")
    assert right.score([written("What?4", "4", other=1), written("4", "4")]) == [1, 0]
    assert right.name == "python:user_rewards.right"
    levels = user("user_rewards.level")
    assert levels.score([written("", level=2), written("", level=2, bonus=5, other=1)]) == [3, 7]
    assert (
        fault(levels, written("", id=1)) == "user_rewards.level needs level; the row has id, answer, prompt, completion"
    )


def test_it_is_given_everything_where_it_takes_everything(user) -> None:
    said = fault(user("user_rewards.given"), written("text", "4", id=[1], prompt=["of the row"], answer="of the row"))
    assert said == f"ValueError: [('answer', '4'), ('id', [1]), ('prompt', 'What?')] {place('# all of it')}"
    assert "[('answer', 'of the row')" in fault(user("user_rewards.given"), written("text", answer="of the row"))


@pytest.mark.parametrize(
    ("value", "score"),
    [("True", 1), ("7", 7), ("-0.5", -0.5), ("np.float32(0.5)", 0.5), ("np.array(2)", 2), ("10**400", None)],
)
def test_a_number_of_any_kind_will_do(user, value: str, score: float | None) -> None:
    assert user("user_rewards.kind").score([written(value)]) == [score]


def test_what_can_be_called_will_do(user) -> None:
    assert user("user_rewards.word").score([written("")]) == [0.5]
    assert user("user_rewards.method").score([written("")]) == [0.25]


@pytest.mark.parametrize(
    ("function", "text", "words"),
    [
        ("first", "", f"IndexError: string index out of range {place('completion[0]')}"),
        ("kind", "None", "returned None, which is no finite number"),
        ("kind", "'1'", "returned '1', which is no finite number"),
        ("kind", "float('nan')", "returned nan, which is no finite number"),
        ("kind", "float('inf')", "returned inf, which is no finite number"),
        ("kind", "[1.0]", "returned [1.0], which is no finite number"),
        ("kind", "np.zeros(2)", "TypeError: "),
        ("ends", "exit", f"SystemExit: enough {place('sys.exit')}"),
        ("ends", "_exit", "ended its process with exit code 7"),
        ("ends", "crash", f"ended its process by signal 11 (Segmentation fault) {place('ctypes.string')}"),
        ("ends", "kill", "ended its process by signal 9 (Killed), perhaps for want of memory"),
        ("ends", "recurse", "RecursionError: maximum recursion depth exceeded"),
        ("ends", "library", f"error: missing ), unterminated subpattern at position 0 {place('re.compile')}"),
        ("ends", "long", f"ValueError: {'x' * 300}… {place('1_000_000')}"),
    ],
)
def test_a_call_that_fails_is_named_and_the_next_goes_on(user, function: str, text: str, words: str) -> None:
    one = user(f"user_rewards.{function}")
    assert fault(one, written(text)).startswith(words)
    assert one.score([written({"kind": "1"}.get(function, "fine"))]) == [1]


@pytest.mark.parametrize(("text", "line"), [("loop", "while"), ("sleep", "time.sleep(60)"), ("backtrack", "re.search")])
def test_a_call_that_hangs_is_given_up_in_its_time(user, text: str, line: str) -> None:
    one, started = user("user_rewards.stuck", timeout=0.5), time.monotonic()
    assert fault(one, written(text)) == f"took longer than 0.5 s {place(line)}"
    assert time.monotonic() - started < 10
    assert one.score([written("fine")]) == [1]


def test_a_process_that_cannot_end_by_itself_is_ended(user, monkeypatch) -> None:
    monkeypatch.setattr("finetune.rl.reward_process.GRACE_SECONDS", 0.2)
    one = user("user_rewards.stuck", timeout=0.3)
    os.kill(one.rule._process.pid, signal.SIGSTOP)
    assert fault(one, written("fine")) == "took longer than 0.3 s"
    assert one.score([written("fine")]) == [1]


def test_what_it_prints_goes_to_stderr(user, capfd: pytest.CaptureFixture) -> None:
    assert user("user_rewards.ends").score([written("flood"), written("fine")]) == [1, 1]
    out, err = capfd.readouterr()
    assert (out, len(err)) == ("", 10_000_001)


def test_it_reads_nothing_of_what_is_typed(user) -> None:
    ours, (read, write) = os.dup(0), os.pipe()
    os.dup2(read, 0)
    try:
        said = fault(user("user_rewards.ends", timeout=3.0), written("input"))
    finally:
        os.dup2(ours, 0)
        for one in (ours, read, write):
            os.close(one)
    assert said == f"EOFError: EOF when reading a line {place('input()')}"


def test_a_thread_that_it_leaves_does_not_keep_the_process(user) -> None:
    one = user("user_rewards.ends")
    assert one.score([written("thread")]) == [1]
    process = psutil.Process(one.rule._process.pid)
    one.rule._socket.shutdown(2)
    assert process.wait(20) == 0


def test_what_it_started_ends_with_it(user) -> None:
    one = user("user_rewards.kind")
    started = psutil.Process(int(one.score([written("__import__('subprocess').Popen(['sleep', '60']).pid")])[0]))
    assert started.is_running()
    one.close()
    psutil.wait_procs([started], timeout=20)
    assert not started.is_running() or started.status() == psutil.STATUS_ZOMBIE


def test_memory_is_taken_from_it_first(user) -> None:
    one = user("user_rewards.stuck")
    assert Path(f"/proc/{one.rule._process.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nowhere.score", "there is no module nowhere"),
        ("user_rewards.rigth", "user_rewards has no function rigth; did you mean right?"),
        ("user_rewards.zzzz", "user_rewards has no function zzzz; it has right, given, level, clean,"),
        ("user_rewards.os", "user_rewards.os is a module, not a function"),
        ("os.path.join", "join(a, *p) takes no parameter named completion"),
        ("broken.score", "importing broken raised ModuleNotFoundError: No module named 'nowhere' (broken.py line 2)"),
        ("typo.score", "importing typo raised SyntaxError: invalid syntax (typo.py line 1)"),
        ("leaves.score", "importing leaves raised SystemExit: 3 (leaves.py line 1)"),
        ("dies.score", "importing it ended its process with exit code 5"),
        ("many.score", "score(completions, **columns) takes no parameter named completion"),
    ],
)
def test_a_function_that_cannot_be_had_is_an_error_of_the_configuration(user, function: str, words: str) -> None:
    Path("broken.py").write_text("import os\nimport nowhere\n", encoding="utf-8")
    Path("typo.py").write_text("def score(:\n", encoding="utf-8")
    Path("leaves.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    Path("dies.py").write_text("import os\nos._exit(5)\n", encoding="utf-8")
    Path("many.py").write_text("def score(completions, **columns):\n    return 1\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        user(function)
    assert caught.value.message.startswith(f"rewards: function={function}: {words}")
    assert "write module.function for a function of (prompt, completion, **columns)" in caught.value.hint
    assert str(Path.cwd()) in caught.value.hint
    assert not [one for one in psutil.Process().children() if "reward_worker" in " ".join(one.cmdline())]


def test_a_module_that_hangs_is_given_up(user, monkeypatch) -> None:
    monkeypatch.setattr("finetune.rl.reward_process.LOAD_SECONDS", 0.5)
    Path("slow.py").write_text("while True:\n    pass\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"function=slow.score: importing it took longer than 0.5 s"):
        user("slow.score")


def test_a_module_that_breaks_during_the_run_is_a_fault_and_may_be_mended(user) -> None:
    one = user("user_rewards.ends")
    Path("user_rewards.py").write_text("def ends(:\n", encoding="utf-8")
    assert fault(one, written("_exit")) == "ended its process with exit code 7"
    assert "importing user_rewards raised SyntaxError" in fault(one, written("fine"))
    Path("user_rewards.py").write_text(USER, encoding="utf-8")
    assert one.score([written("fine")]) == [1]


PARENT = """\
import os, sys
from finetune.config import RewardConfig
from finetune.rl.rewards import Completion, make_scorers
scorer = make_scorers([RewardConfig(type="python", function="user_rewards.stuck", timeout=2.0)])[0]
print(scorer.rule._process.pid, flush=True)
scorer.score([Completion("", sys.argv[1], 1, "here")])
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("text", ["fine", "backtrack"])
def test_it_goes_with_a_run_that_is_killed(user, text: str) -> None:
    """In a call too, and even in one that lets no Python run."""
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", PARENT, text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        if text == "fine":
            assert parent.stdout.readline() == "done\n"
        parent.kill()
    until = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the worker outlived the run"
        time.sleep(0.05)
