"""Text without what must not be told: tokens of the environment, keys in the shape of known services, and the password
in an address."""

from __future__ import annotations

import os
import re

NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
"""Environment variables whose values are secrets."""

SHORTEST = 8
"""Characters of a value that is hidden wherever it stands: a shorter one would be found inside of words."""

SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}\b"  # Hugging Face
    r"|\bsk-[A-Za-z0-9_-]{20,}"  # OpenAI and others
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}\b"  # GitHub
    r"|\bAKIA[A-Z0-9]{16}\b"  # AWS
)
ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:?[^\s/@]*@")

HIDDEN = "[hidden]"


def redact(text: str) -> str:
    """The text with `[hidden]` in the place of secrets; equal texts give equal texts."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and NAMES.search(name) and value in text:
            text = text.replace(value, HIDDEN)
    return ADDRESS.sub(rf"\1{HIDDEN}@", SHAPES.sub(HIDDEN, text))
