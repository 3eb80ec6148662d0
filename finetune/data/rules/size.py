"""Rows that are too long, counted in characters: tokens would need a tokenizer."""

from __future__ import annotations

from finetune.data.rules.rule import Rule
from finetune.data.rules.view import Texts

CHARACTERS_PER_TOKEN = 4
"""Of English text, about; other languages and code have fewer, so what is found here is too long by any tokenizer."""


def too_long(max_length: int) -> Rule:
    """The rule for a model that reads `max_length` tokens."""

    def find(texts: Texts) -> str | None:
        size = len(texts.system) + len(texts.question) + len(texts.answer)
        return f"{size:,} characters" if size > limit else None

    limit = CHARACTERS_PER_TOKEN * max_length
    return Rule("too_long", "the row has more than four characters for each token of data.max_length", find)
