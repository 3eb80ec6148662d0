"""Personal data: what a model should not learn to say. A finding shows its kind and a piece, never the whole."""

from __future__ import annotations

import re
from collections.abc import Callable

from finetune.data.rules.rule import Rule
from finetune.data.rules.view import Texts

Kind = tuple[str, re.Pattern[str], Callable[[str], bool]]
"""A kind of personal data: its name, what it looks like, and whether something that looks so is it."""

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
DIGITS = re.compile(r"[+(\d][\d ().-]{8}|[A-Z][A-Z]\d\d")
"""What every number below has: a text without it, as most are, needs no closer look."""
PHONE = re.compile(
    r"(?<![\w.+*/=-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\)[ .-]?|\d{3}[.-])\d{3}[ .-]\d{4}(?![\w.]?\d|\w)"
    r"|(?<![\w.+*/=)>-])\+\d{1,3}(?:[ .-]\(?\d{2,5}\)?){2,5}(?!\w)"
)
SOCIAL_SECURITY = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
CARD = re.compile(r"(?<![\w-])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{3,4}(?![\w-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")


def personal_data(texts: Texts) -> str | None:
    """The first address or number of a person that an answer says and the question did not give.

    What an answer copies from its question is the task's; what it says unasked is what a model would learn by heart.
    """
    given = f"{texts.system}\n{texts.question}"
    for kind, pattern, holds in _kinds(texts.answer):
        for found in pattern.finditer(texts.answer):
            if holds(found[0]) and found[0].strip() not in given:
                return f"{kind} {_masked(found[0].strip())}"
    return None


def _kinds(text: str) -> tuple[Kind, ...]:
    return (EMAILS if "@" in text else ()) + (NUMBERS if DIGITS.search(text) else ())


def _masked(text: str) -> str:
    name, at, domain = text.partition("@")
    return f"{name[0]}…@{domain}" if at else f"…{name[-2:]}"


def _is_phone(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15  # the longest of ITU-T E.164


def _is_card(text: str) -> bool:
    """The Luhn checksum (ISO/IEC 7812)."""
    digits = [int(sign) for sign in reversed(text) if sign.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The remainder of ISO 7064 by 97."""
    packed = text.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in packed[4:] + packed[:4])) % 97 == 1


EMAILS: tuple[Kind, ...] = (("e-mail", EMAIL, bool),)
NUMBERS: tuple[Kind, ...] = (
    ("phone number", PHONE, _is_phone),
    ("social security number", SOCIAL_SECURITY, bool),
    ("card number", CARD, _is_card),
    ("account number", IBAN, _is_iban),
)

RULES = (
    Rule("personal_data", "an e-mail address, or a phone, social security, card or account number", personal_data),
)
