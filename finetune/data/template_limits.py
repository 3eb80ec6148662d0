"""Limits of a chat template, which is a program of whoever made the model: transformers' sandbox keeps it from files
and code, but not from running for ever or filling the memory.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import jinja2

from finetune.errors import DataError

SECONDS = 5.0
"""Processor time of one rendering: a conversation of a thousand turns takes 0.01 s."""

GRACE = 55
"""Seconds more, after which the kernel ends the process: a single call into C cannot be told to stop."""

MEMORY = 2**28
"""Bytes that one rendering may take: a conversation of a million words takes 20 MB."""

WRITTEN = 2**24
"""Characters of a rendering: four million tokens, more than any model reads at once."""

LONGEST = 2**20
"""Characters of a template: published ones have 20,000."""

HINT = "the template is a program: look at it, and give another as data.chat_template, or another model"
STATM = Path("/proc/self/statm")


def require_bounded(template: str) -> None:
    """Raises DataError for a template too long to be one, and for powers: 9**9**9 is one call into C without end."""
    if len(template) > LONGEST:
        raise DataError(f"the chat template has {len(template):,} characters, more than {LONGEST:,}", HINT)
    before = ""
    with contextlib.suppress(jinja2.TemplateSyntaxError):  # rendering says what is wrong
        for _, kind, value in jinja2.Environment().lex(template):
            if value == "**" or (before == "|" and value == "round"):
                raise DataError(f"the chat template computes powers ({value}), which have no bound", HINT)
            before = before if kind == "whitespace" else value


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Raises DataError where what is done within takes more than SECONDS (in the main thread) or MEMORY (on Linux)."""
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(_limited_time())
        if STATM.exists():
            stack.enter_context(_limited(resource.RLIMIT_AS, _taken() + MEMORY))
        try:
            yield
        except MemoryError:
            raise DataError(f"the chat template asks for more than {MEMORY / 2**20:g} MiB of memory", HINT) from None


def require_short(text: str) -> None:
    """Raises DataError for a rendering that no tokenizer should be given."""
    if len(text) > WRITTEN:
        raise DataError(f"the chat template writes {len(text):,} characters of a conversation, over {WRITTEN:,}", HINT)


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = signal.signal(signal.SIGVTALRM, _too_long)
    try:
        with _limited(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + SECONDS) + GRACE):
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def _limited(what: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    ends = [most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(what, (min(ends), hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def _taken() -> int:
    """Bytes of address space that the process has."""
    return int(STATM.read_text().split()[0]) * resource.getpagesize()


def _too_long(signum: int, frame: object) -> None:
    raise DataError(f"the chat template was not done with a conversation after {SECONDS:g} s", HINT)
