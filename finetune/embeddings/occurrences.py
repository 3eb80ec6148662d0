"""A word where it stands in a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Occurrence:
    """`text[start:end]` is the word; offsets are in characters, `end` exclusive."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word as it stands there."""
        return self.text[self.start : self.end]

    def lowered(self) -> Occurrence:
        """In lower case. The offsets are found anew: some letters (İ) are two in lower case."""
        return self._of(self.text[: self.start].lower(), self.word.lower(), self.text[self.end :].lower())

    def replaced(self, word: str) -> Occurrence:
        """With another word in its place."""
        return self._of(self.text[: self.start], word, self.text[self.end :])

    @staticmethod
    def _of(before: str, word: str, after: str) -> Occurrence:
        return Occurrence(before + word + after, len(before), len(before) + len(word))
