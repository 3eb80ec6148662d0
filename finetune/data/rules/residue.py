"""Residue of how a text was made: wrong decodings, markup, tokens of a chat template."""

from __future__ import annotations

import re

from ftfy.badness import BADNESS_RE

from finetune.data.rules.rule import Rule, excerpt
from finetune.data.rules.view import Texts

_TAGS = "p|div|span|br|hr|a|[uo]l|li|table|t(?:head|body|[rdh])|h[1-6]|strong|em|[biu]|img|font|blockquote|su[bp]|pre"
TAG = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|\[/(?:b|i|u|url|img|quote|code|size|color)\]|\[(?:url|quote|size|color)=[^\]\s]*\]",
    re.IGNORECASE,
)
ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|[lr]squo|[lr]dquo|[mn]dash|hellip|bull|copy|middot|times|#\d{2,5}|#x[\da-f]{2,5});",
    re.IGNORECASE,
)
ABOUT_MARKUP = re.compile(
    r"\b(?:x?html5?|xml|css|svg|jsx?|javascript|php|tags?|markup|markdown|bbcode|web ?(?:page|site)s?|code|latex|"
    r"entit(?:y|ies)|escape[ds]?|react|django|flask|front-?end|scrap(?:e|er|ing)|parse[rs]?|regex)\b",
    re.IGNORECASE,
)
"""Words of a question that markup can answer."""
DOCUMENT = re.compile(r"```|<!doctype|<html|<\?xml|<svg|<script", re.IGNORECASE)
"""What an answer holds that is markup on purpose: a code fence, a whole document."""

TEMPLATE_TOKENS = re.compile(
    r"<[|｜][^\s<>|｜]{1,40}[|｜]>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|sep|cls)>"
    r"|</s>\s*(?=<s>|$)|^\s*<s>(?!.*</s>.)|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)


def mojibake(texts: Texts) -> str | None:
    """Text that was decoded with the wrong encoding, as ftfy knows it, and the mark of lost characters."""
    for text in (texts.system, *texts.asked, *texts.answers):
        if text.isascii():
            continue
        found = BADNESS_RE.search(text)
        start = found.start() if found else text.find("\ufffd")
        if start >= 0:
            return excerpt(text[max(0, start - 20) : start + 20])
    return None


def markup_residue(texts: Texts) -> str | None:
    """Tags and entities in an answer, where the question is not about such things and shows none."""
    answer = texts.answer
    if "<" not in answer and "&" not in answer and "[" not in answer:
        return None
    found = TAG.search(answer) or ENTITY.search(answer)
    if not found or DOCUMENT.search(answer):
        return None
    question = f"{texts.system}\n{texts.question}"
    if ABOUT_MARKUP.search(question) or TAG.search(question) or ENTITY.search(question):
        return None
    return excerpt(answer[found.start() : found.start() + 40])


def template_tokens(texts: Texts) -> str | None:
    """Tokens of a chat template inside a text: what is inside would end a turn or forge one."""
    if texts.format == "text":
        return None  # rendered already: there the tokens are what is to be learnt
    for text in (texts.system, *texts.asked, *texts.answers):
        if ("<" in text or "[" in text) and (found := TEMPLATE_TOKENS.search(text)):
            return excerpt(text[found.start() : found.start() + 40])
    return None


RULES = (
    Rule("mojibake", "characters that were decoded with the wrong encoding, or lost", mojibake),
    Rule("markup_residue", "tags or entities in an answer that nobody asked for", markup_residue),
    Rule("template_tokens", "tokens of a chat template inside a text", template_tokens),
)
