"""Answers gone wrong: several records in one, loops, refusals."""

from __future__ import annotations

import re
from collections import Counter

from finetune.data.rules.rule import Rule, excerpt
from finetune.data.rules.view import Texts

_HEAD = r"^[ \t]*(?:#+[ \t]*)?(?:\d+[.)][ \t]*)?"
NEXT_RECORD = re.compile(
    rf"{_HEAD}(?:Instruction|Task|Question|Prompt)[ \t]*:.*{_HEAD}(?:Output|Response|Completion)[ \t]*:"
    r"|^#{2,}[ \t]*(?:Instruction|Human|User|Prompt|Response|Assistant)[ \t]*:",
    re.MULTILINE | re.DOTALL,
)
"""A heading that asks and, below it, one that answers; or a heading of a prompt template."""
MADE_RECORDS = re.compile(r"\b(?:instructions?|prompts?|tasks?|examples?|data ?sets?|template)\b", re.IGNORECASE)
"""Words of a question whose answer may be a record on purpose."""

REPEATS = 4
PROBE = 12
"""Characters whose last occurrence before the end tells the period of a loop."""
SAYS = re.compile(r"[^\W\d_]|\d[.!?](?!\d)")
"""A letter, or a sentence that is a number: strokes of a table and zeros of a list repeat by right."""
LOOP_LENGTH = 40
"""Shortest loop in characters: `ha ha ha ha` is a laugh."""
REPEATED_LINES = 8

_CANNOT = r"(?:cannot|can['’]t|can not|(?:am|['’]m) (?:unable|not able)|don['’]t have|do not have|won['’]t|will not)"
_ACT = r"(?:assist|help|fulfil|provide|answer|generate|create|comply|complete|access|do that|engage|browse)"
REFUSES = re.compile(
    rf"\W*(?:(?:i['’]m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately)\b[^.\n]{{0,60}}\bi ?{_CANNOT}\b"
    rf"|i ?{_CANNOT} (?:to )?{_ACT})"
)
OF_ITSELF = re.compile(r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b")
"""Both for text in small letters; the first holds at the start of an answer."""
REFUSED_WITHIN = 300
"""Characters at the start of an answer in which it refuses; further on it may quote someone."""


def merged_record(texts: Texts) -> str | None:
    """An answer that goes on with the next record of the file it came from."""
    for text in texts.answers:
        found = NEXT_RECORD.search(text) if ":" in text and "\n" in text else None
        if found and texts.format != "text" and not (found.start() == 0 and MADE_RECORDS.search(texts.question)):
            return excerpt(text[found.start() :])
    return None


def loop(texts: Texts) -> str | None:
    """An answer that says the same again and again, at its end, in its middle or line by line."""
    for text in texts.answers:
        if len(text) >= LOOP_LENGTH and (
            unit := _period(text.rstrip()) or _period(text[: len(text) // 2]) or _line(text)
        ):
            return excerpt(unit)
    return None


def _period(text: str) -> str:
    """What the text ends with several times over, without a gap; empty where it does not."""
    period = len(text) - PROBE - text.rfind(text[-PROBE:], 0, len(text) - 1)
    span = max(REPEATS * period, LOOP_LENGTH)
    unit = text[-period:]
    if period <= 0 or span > len(text) or not SAYS.search(unit):
        return ""
    return unit.strip() if text[-span:-period] == text[period - span :] else ""


def _line(text: str) -> str:
    """The line that fills more than half of many lines."""
    if text.count("\n") < REPEATED_LINES:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line, times = Counter(lines).most_common(1)[0] if lines else ("", 0)
    return line if times >= REPEATED_LINES and 2 * times > len(lines) and SAYS.search(line) else ""


def refusal(texts: Texts) -> str | None:
    """An answer that refuses, or speaks of itself as a language model. Who speaks in plain text is not known."""
    for text in texts.answers if texts.format != "text" else ():
        start = text[:REFUSED_WITHIN].lower()
        if found := REFUSES.match(start) or ("as a" in start and OF_ITSELF.search(start)):
            return excerpt(text[found.start() :])
    return None


RULES = (
    Rule("merged_record", "an answer goes on with the next record", merged_record),
    Rule("loop", "an answer repeats itself to its end or in most of its lines", loop),
    Rule("refusal", "an answer refuses, or speaks of itself as a language model", refusal),
)
