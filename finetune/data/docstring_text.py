"""From a docstring to an answer: its first complete sentences, as plain text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import takewhile

MIN_CHARS, MAX_CHARS, MIN_WORDS = 20, 400, 3
MAX_PARAGRAPHS = 2

# What comes before the text: lines that are only a name or signature, or `name(arguments) -- `, or a short title.
SIGNATURES = re.compile(
    r"""\A(?: \s* (async[ ])? [\w.]+ (\(.*\))? ([ ]?\[.*\])?   # name, name(arguments), name [arguments]
           (\s*[-=]+>.*(\n[a-z].*)* | \.)? [ ]* \n           # -> result, on one line or more
        )+ \s*""",
    re.VERBOSE,
)
HEAD = re.compile(r"\A[\w.]+\([^)]*\)\s*(?:-+>[^-:\n]*)?(?:--|:)\s+")
TITLE = re.compile(r"\A(.{,50}[\w)])\n(?=[A-Z])")

# A line where prose ends.
NOT_PROSE = re.compile(
    r"""  [ ]{2} | .*>>> | .*\S[ ]{3,}\S          # examples, doctests, tables
        | ([-*+:|\#$]|\.\.|\(?\d+[.)])(\s|$)    # lists and directives
        | :\w | [a-z_]+:\s | \w+:$              # fields and labels
        | [-=~*]{3} | [\w.]+\(.*\)(\s-|$)       # underlines, signatures
        | \w+[ ]=[ ]                            # statements
        | Author | Written | Copyright | .*\w@\w""",
    re.VERBOSE,
)
# A sentence that cannot stand alone, or says nothing of use to a reader of the answer.
UNFIT = re.compile(
    r"""  XXX | TODO | FIXME | [-=]> | https?:// | <\.\.\.> | <instance>
        | Copyright | [Dd]eprecated | [Ii]nternal | [Uu]nit[ ]tests | implementation[ ]detail
        | \b[Ss]ee\b | \b(above|below|follow) | [:,;-]\.?$ | \][ ][A-Z] | `'
        | ^[\w.]+\([^)]*\)\.?$ | ^\w+\(\w+\)[ ] | ^\w+\.$""",
    re.VERBOSE,
)
MARKUP = (
    (re.compile(r":[\w:+-]+:`(?:[^`<]*<)?[~!.]?([^`>]+)>?`"), r"`\1`"),  # :role:`name`
    (re.compile(r"``+([^`']+)(?:``+|'')"), r"`\1`"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_+"), r"\1"),  # `text <address>`_
    (re.compile(r"`([^`' ]+)'"), r"`\1`"),  # `name'
    (re.compile(r"(?<![\w*])\*(\w+)\*(?![\w*])"), r"\1"),
    (re.compile(r"\s<https?://[^>]*>"), ""),
)
SENTENCE_END = re.compile(r"[.!?]['\")`]*$(?<!\be\.g\.)(?<!\bi\.e\.)")
SENTENCE_GAP = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)\s+(?=[A-Z`'\"(])")


def answer(docstring: str) -> str:
    """The sentences of a docstring up to the first unfit one, MIN_CHARS to MAX_CHARS in all; "" if there are none."""
    kept = ""
    for sentence in _sentences(docstring):
        longer = f"{kept} {sentence}".lstrip()
        if not SENTENCE_END.search(sentence) or UNFIT.search(sentence) or len(longer) > MAX_CHARS:
            break
        kept = longer
    if len(kept) < MIN_CHARS or len(kept.split()) < MIN_WORDS or kept.count("`") % 2 or not re.match(r"['\"`\w]", kept):
        return ""
    starts_with_a_name = not re.match(r"[a-z]+[ ,']", kept)
    return kept if starts_with_a_name else kept[0].upper() + kept[1:]


def _sentences(docstring: str) -> Iterator[str]:
    text = SIGNATURES.sub("", inspect.cleandoc(docstring) + "\n")
    text = TITLE.sub(r"\1.\n", HEAD.sub("", text).strip())
    for number, paragraph in enumerate(re.split(r"\n\s*\n|(?<=:)\n", text)[:MAX_PARAGRAPHS]):
        lines = paragraph.split("\n")
        prose = list(takewhile(lambda line: not NOT_PROSE.match(line), lines))
        plain = " ".join(" ".join(prose).split())
        for pattern, replacement in MARKUP:
            plain = pattern.sub(replacement, plain)
        whole = len(prose) == len(lines)
        if number == 0 and whole and not SENTENCE_END.search(plain):
            plain += "."  # a summary line, by habit often without one
        yield from SENTENCE_GAP.split(plain)
        if not whole:
            return
