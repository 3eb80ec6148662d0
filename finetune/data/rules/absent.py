"""Something that should be there is not: nulls, empty turns, placeholders, lone addresses, media."""

from __future__ import annotations

import re

from finetune.data.json_files import CONVERSATION_COLUMNS
from finetune.data.rules.rule import Rule, excerpt
from finetune.data.rules.view import Texts
from finetune.data.shapes import PAIRS

TEXT_COLUMNS = {
    "instruction",
    "context",
    "response",
    "text",
    *CONVERSATION_COLUMNS,
    *(name for pair in PAIRS for name in pair),
}
"""Columns that a row is read from; null in any other one, such as a note, is no fault."""

STAND_INS = {
    "na", "notapplicable", "notavailable", "none", "null", "undefined", "tbd", "todo", "placeholder", "empty", "blank",
    "noinput", "nooutput", "noresponse", "noanswer", "noanswerprovided", "nooutputprovided", "noinputprovided",
    "noinputneeded", "noinputrequired", "inputhere", "outputhere", "noresult", "insertoutputhere",
}  # fmt: skip
"""What is written where nothing is, without case, blanks and punctuation."""

LONGEST_STAND_IN = 40
ONLY_MARKS = re.compile(r"[-–—_.…~*#=/\\\s]+")
"""Strokes and dots alone. Other marks can be an answer: an operator, an emoticon, a chess piece."""

URLS = re.compile(r"\s*[<(\[]?(?:https?://|www\.)\S+(?:[\s,;]+(?:https?://|www\.)\S+)*\s*", re.IGNORECASE)

_MEDIUM = (
    r"(?:picture|image|photo|photograph|figure|video|audio|screenshot|attachment|diagram|chart|drawing|gif|pdf|file)s?"
)
_STATE = (
    r"(?:attached|here|below|above|omitted|removed|missing|placeholder|not shown|not available|unavailable|included)"
)
MEDIA = re.compile(
    rf"[<\[(]\s*(?:the |an? |see |insert |attached |missing )*{_MEDIUM}(?:\s*\d+)?(?:\s+(?:is )?{_STATE})*\s*[>\])]"
    rf"|\b(?:see|in|of|from|on|describe|this|the) (?:the )?attached {_MEDIUM}\b",
    re.IGNORECASE,
)


def null_field(texts: Texts) -> str | None:
    """A column that the row is read from and that is null."""
    names = [name for name, item in texts.value.items() if item is None and name in TEXT_COLUMNS]
    return f"null: {', '.join(names)}" if names else None


def empty_turn(texts: Texts) -> str | None:
    """A question, or a turn of one, without words."""
    turns = [turn for example in texts.examples for turn in enumerate(example.messages, start=1)]
    empty = [number for number, message in turns if message["role"] == "user" and not message["content"].strip()]
    return f"turn {empty[0]}" if empty else None


def placeholder_output(texts: Texts) -> str | None:
    """An answer that stands for none. Where the question names the word, as in "or None", it is an answer."""
    return next((excerpt(text) for text in texts.answers if stands_in(text) and not _named(text, texts.question)), None)


def placeholder_input(texts: Texts) -> str | None:
    """An input that stands for none; the word of a person asking alone is left to `empty_turn`."""
    return next((excerpt(text) for text in texts.asked if stands_in(text)), None)


def _named(text: str, question: str) -> bool:
    word = text.strip()
    return word.isalpha() and re.search(rf"\b{word}\b", question, re.IGNORECASE) is not None


def stands_in(text: str) -> bool:
    """Whether a text is a placeholder and nothing else."""
    text = text.strip()
    if not text or len(text) > LONGEST_STAND_IN:
        return False
    if ONLY_MARKS.fullmatch(text):
        return True
    word = "".join(filter(str.isalnum, text)).casefold()
    return word in STAND_INS and text != "Na"  # sodium


def url_only_input(texts: Texts) -> str | None:
    """An input that is an address: the page is not in the data, and the model learns to make it up."""
    return next((excerpt(text) for text in texts.asked if URLS.fullmatch(text)), None)


def missing_media(texts: Texts) -> str | None:
    """A picture or file that is spoken of and not there."""
    question = texts.question
    found = (
        MEDIA.search(question)
        if "ttached" in question or "<" in question or "[" in question or "(" in question
        else None
    )
    return excerpt(found[0]) if found else None


RULES = (
    Rule("null_field", "a column that the row is read from is null", null_field),
    Rule("empty_turn", "a question or a turn of it has no words", empty_turn),
    Rule("placeholder_output", "the answer is N/A, <no output>, a stroke or the like", placeholder_output),
    Rule("placeholder_input", "the input is N/A, <noinput> or the like", placeholder_input),
    Rule("url_only_input", "the input is an address, and what it leads to is not in the data", url_only_input),
    Rule("missing_media", "the question is about a picture or file that is not in the data", missing_media),
)
