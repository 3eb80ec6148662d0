"""The command line: parse, call one function, print what it returns, or an error and its hint.

main.py      the commands by name, and how errors end
options.py   what several commands take, and how they print
line.py      train, preflight, plan
sweeps.py    sweep
runs.py      eval, chat, report, verify, verify-resume: what was trained
rows.py      data check, curate, map, preview
machine.py   lab, doctor, schema

Results go to stdout, everything else to stderr. Nothing here imports torch before a command needs it, so that `--help`
comes at once.
"""

from finetune.cli.main import main

__all__ = ["main"]
