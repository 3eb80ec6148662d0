"""Limits of a chat template, which is a program of whoever made the model: transformers' sandbox keeps it from files
and code, but not from running for ever or filling the memory.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import jinja2

from finetune.errors import DataError
from finetune.memory_limit import limited_memory

SECONDS = 10.0
"""Time of one batch of renderings: a conversation of a thousand turns takes 0.01 s, and a batch of ordinary ones 0.1 s.
By the clock, since the processor's time is that of every thread, and the tokenizer has many."""

MEMORY = 2**31
"""Bytes that the process may take meanwhile: a conversation of a million words takes 20 MB, and the tokenizer works on
a batch beside it."""

WRITTEN = 2**24
"""Characters of a rendering: four million tokens, more than any model reads at once."""

LONGEST = 2**20
"""Characters of a template: published ones have 20,000."""

HINT = "the template is a program: look at it, and give another as data.chat_template, or another model"

_set = False


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
    """Raises DataError where what is done within takes more than SECONDS (in the main thread) or MEMORY (on Linux).

    Within other limits these hold alone: setting them costs as much as a short rendering, so a batch sets them once.
    """
    global _set
    if _set:
        yield
        return
    _set = True
    try:
        with _limited_all():
            yield
    finally:
        _set = False


@contextlib.contextmanager
def _limited_all() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(_limited_time())
        stack.enter_context(limited_memory(MEMORY))
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
    before, began = signal.signal(signal.SIGALRM, _too_long), time.monotonic()
    rest, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if rest:  # somebody else's alarm comes when it would have come
            signal.setitimer(signal.ITIMER_REAL, max(rest - (time.monotonic() - began), 1e-3))


def _too_long(signum: int, frame: object) -> None:
    raise DataError(f"the chat template was not done with a conversation after {SECONDS:g} s", HINT)
