"""A `python` reward: the user's function in a process of its own, which may hang, crash or end without harm.

The process is started anew after that, and goes with the run: the socket between them is closed then, and a call that
is going on ends at its limit. What the function prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError
from finetune.rl import reward_worker
from finetune.rl.completion import Completion, Rule, Unscorable

LOAD_SECONDS = 60.0
"""Limit of importing the user's module, which may load models of its own."""

GRACE_SECONDS = 2.0
"""How much longer than its limit a process is waited for: it ends by itself, and says where it hung."""


class RewardProcess(Rule):
    """The function at a dotted path. It is called by name with those of prompt, completion, answer and the row's
    columns that it takes. Modules of the working directory are found.

    Raises ConfigError where there is no such function.
    """

    def __init__(self, function: str, timeout: float) -> None:
        self.function, self.timeout = function, timeout
        self.hint = f"{function} has to return a finite number for every completion within timeout={timeout:g} s"
        self._process: subprocess.Popen | None = None
        self._start()

    def __call__(self, completion: Completion) -> float:
        if self._process is None:
            try:
                self._start()
            except ConfigError as error:
                raise Unscorable(error.message) from None
        reply = self._ask(self._arguments(completion), self.timeout)
        if isinstance(reply, str):
            raise Unscorable(reply)
        return reply

    def close(self) -> None:
        """Ends the process, and those it started."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for one in (self._stream, self._socket, self._stacks):
                with contextlib.suppress(OSError):
                    one.close()
        self._process = None

    def _start(self) -> None:
        """Starts the process and loads the function."""
        self._socket, theirs = socket.socketpair()
        self._stream, self._stacks = self._socket.makefile("rwb"), tempfile.TemporaryFile()  # noqa: SIM115
        ends = (theirs.fileno(), self._stacks.fileno())
        command = [sys.executable, "-P", reward_worker.__file__, *map(str, ends)]
        with theirs:
            # Its own session, so that Ctrl-C stops the run alone and everything it starts can be ended with it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=ends, start_new_session=True
            )
        self._file = None
        path = [str(Path.cwd()), *sys.path]
        try:
            found = self._ask((path, self.function, LOAD_SECONDS, self.timeout), LOAD_SECONDS)
        except Unscorable as fault:
            found = {"error": f"importing it {fault}"}
        if "error" in found:
            self.close()
            raise ConfigError(
                f"rewards: function={self.function}: {found['error']}",
                "write module.function for a function of (prompt, completion, **columns) that scores one completion; "
                f"modules are looked for in {Path.cwd()} and among the installed ones",
            )
        self._file, self._takes, self._needs = found["file"], found["takes"], found["needs"]

    def _arguments(self, completion: Completion) -> dict[str, Any]:
        given = dict(completion.columns)
        if completion.answer is not None:
            given["answer"] = completion.answer
        given.setdefault("answer", None)
        given |= {"prompt": completion.prompt, "completion": completion.text}
        lacking = [name for name in self._needs if name not in given]
        if lacking:
            raise Unscorable(f"{self.function} needs {', '.join(lacking)}; the row has {', '.join(given)}")
        return given if self._takes is None else {name: given[name] for name in self._takes if name in given}

    def _ask(self, request: Any, seconds: float) -> Any:
        """The reply. Raises Unscorable where the process hung or ended, and ends it."""
        self._socket.settimeout(seconds + GRACE_SECONDS)
        try:
            pickle.dump(request, self._stream)
            self._stream.flush()
            return pickle.load(self._stream)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            said = self._ended(seconds, at_once=not isinstance(error, TimeoutError))
            self.close()
            raise Unscorable(said) from None
        except BaseException:  # Ctrl-C between a request and its reply, which the next would be given
            self.close()
            raise

    def _ended(self, seconds: float, at_once: bool) -> str:
        """What became of the call: the exit code, unless the process hangs, and the line, where the stack tells it."""
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(GRACE_SECONDS if at_once else 0)
        self._stacks.seek(0)
        stack = self._stacks.read().decode(errors="replace")
        lines = re.findall(r'File "(.*)", line (\d+)', stack)
        own = [(file, line) for file, line in lines if file == self._file]
        where = f" ({Path(own[0][0]).name} line {own[0][1]})" if own else ""
        if code is None or stack.startswith("Timeout"):
            return f"took longer than {seconds:g} s{where}"
        if code >= 0:
            return f"ended its process with exit code {code}{where}"
        memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"ended its process by signal {-code} ({signal.strsignal(-code)}){memory}{where}"
