"""`python -m finetune.sweep.leash PARENT COMMAND...`: becomes that command, and ends when its parent does.

A sweep that is killed must leave nothing behind that trains: whoever resumes it would meet two writers. The kernel sees
to that (prctl(2), PR_SET_PDEATHSIG; kept by execve), also where nobody is left to send a signal. Asked for here and not
between fork and exec, where a process of many threads may do next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent, which may be gone by now, and becomes the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":  # elsewhere a trial whose sweep is killed trains to its end
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the sweep that started this trial has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
