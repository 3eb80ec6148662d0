"""The process of a `python` reward: loads the user's function and calls it for the run, which is at the other end of a
socket. Imports the standard library and what the user's module imports; run by its path, not as a module of finetune.

Arguments: file descriptors of the socket and of a file for the stacks of calls that hang or crash.
"""

from __future__ import annotations

import contextlib
import difflib
import faulthandler
import importlib
import inspect
import math
import os
import pickle
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

LONGEST = 300
"""Characters of an exception's text that are told."""


def main(connection: int, stacks: int) -> None:
    """Answers one request after the other until the other end is gone."""
    os.set_inheritable(connection, False)
    faulthandler.enable(stacks)
    with contextlib.suppress(OSError):  # where memory runs out, this process is the one to end, not the training
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(EOFError, OSError):
        serve(socket.socket(fileno=connection).makefile("rwb"), stacks)
    os._exit(0)  # threads that the function left behind do not keep the process


def serve(stream: BinaryIO, stacks: int) -> None:
    """The first request says what to load, the others are the arguments of a call each."""
    path, function, seconds, timeout = pickle.load(stream)
    sys.path[:] = path
    loaded, reply = _within(seconds, stacks, load, function)
    _send(stream, reply)
    while loaded is not None:
        arguments = pickle.load(stream)
        _send(stream, _within(timeout, stacks, call, loaded, arguments))


def load(dotted: str) -> tuple[Any, dict[str, Any]]:
    """The function, or None, and what the run is told of it: {error} or {file, takes, needs}."""
    name, _, attribute = dotted.rpartition(".")
    try:
        module = importlib.import_module(name)
        function = getattr(module, attribute, None)
        return function, _described(module, attribute, function)
    except BaseException as error:  # a module may raise SystemExit too
        if isinstance(error, _Unfit):
            return None, {"error": str(error)}
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            return None, {"error": f"there is no module {error.name}"}
        return None, {"error": f"importing {name} raised {_said(error, None)}"}


class _Unfit(Exception):
    """What was found is no function that can be called."""


def _described(module: ModuleType, name: str, function: Any) -> dict[str, Any]:
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, own, n=1)
        there = f"did you mean {near[0]}?" if near else f"it has {', '.join(own[:10]) or 'none'}"
        raise _Unfit(f"{module.__name__} has no function {name}; {there}")
    if not callable(function):
        raise _Unfit(f"{module.__name__}.{name} is a {type(function).__name__}, not a function")
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    everything = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    names = [one.name for one in named]
    if "completion" not in names and (not everything or "completions" in names):
        raise _Unfit(f"{name}{signature} takes no parameter named completion")
    return {
        "file": _file_of(function),
        "takes": None if everything else names,
        "needs": [one.name for one in named if one.default is one.empty],
    }


def call(function: Any, arguments: dict[str, Any]) -> float | str:
    """The function's number, or what is wrong with it."""
    try:
        value = function(**arguments)
        number = float(value) if hasattr(value, "__float__") else math.nan
    except BaseException as error:  # sys.exit is no way out either
        return _said(error, _file_of(function))
    return number if math.isfinite(number) else f"returned {_short(value, repr)}, which is no finite number"


def _file_of(function: Any) -> str | None:
    return getattr(sys.modules.get(getattr(function, "__module__", None) or ""), "__file__", None)


def _said(error: BaseException, file: str | None) -> str:
    """Type, text and line of an exception: the last line in the user's file, or the last of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name} line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    own = [frame for frame in frames if frame.filename == file] or frames
    where = f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""
    text = _short(error, str)
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _short(value: Any, write: Any) -> str:
    try:
        text = " ".join(write(value).split())
    except Exception:
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _within(seconds: float, stacks: int, work: Any, *arguments: Any) -> Any:
    """Does the work. A thread of the interpreter's own ends the process where it takes longer, even inside C code that
    lets no Python run, and even if nobody is left at the other end; the stack is written first."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=stacks)
    try:
        return work(*arguments)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _send(stream: BinaryIO, reply: Any) -> None:
    pickle.dump(reply, stream)
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
