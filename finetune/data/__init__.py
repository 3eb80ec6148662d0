"""Data: sources and formats become messages, messages become tokens with a loss mask, tokens become packs.

rows.py       files and hub data sets, read row by row with their place
formats.py    messages, ShareGPT, Alpaca, prompt/completion, text, preferences and prompts, found by looking (shapes.py)
              and made examples (converters.py, example.py)
template.py   conversations rendered by the tokenizer's chat template, within template_limits.py
turns.py      which characters of a rendered conversation are trained, for any chat template
tool_text.py  tool calls as text, for templates that write none
encode.py     tokens and labels of one example
packs.py      rows become packs as full as they get, and the data set of a trainer
pairs.py      the data sets of other trainers: pairs of answers, prompts
sources.py    the rows of both splits; splits.py: one of them as tokens, counted; prompts.py the same
              for methods that answer themselves; load.py: the whole of `data:`
streaming.py  rows that are read while a run trains, from blocks.py; seen.py counts them
contract.py   the mask contract, rule by rule; breaches.py finds what breaks it; mask_check.py is its part of the check
notes.py      what was found and decided, said aloud
collate.py    rows become a batch, padded or packed
check.py      defects found without a model: lines.py by bytes, rules/ by row and across rows; chunks.py, tally.py and
              findings.py serve it
map.py         rows as points of one page; map_colours.py and losses.py colour them
labelled.py    texts with labels, from columns
terms.py       the senses of chosen terms; term_results.py shows them
curate.py     a new file of the rows worth keeping: stream.py, vectors.py, curation_state.py, curation_vectors.py,
              curation_steps.py and curation_results.py serve it
preview.py    examples with the trained tokens coloured
docstrings.py the quickstart's questions and answers, from the standard library's docstrings
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "IGNORED": "encode",
    "ChatTemplate": "template",
    "CheckResult": "findings",
    "Collator": "collate",
    "Encoded": "encode",
    "Encoder": "encode",
    "LoadedData": "load",
    "Prompt": "splits",
    "Split": "splits",
    "SplitStats": "splits",
    "check_file": "check",
    "check_sources": "check",
    "load_data": "load",
    "to_dataset": "packs",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Names are imported when they are asked for: a file of rows is checked without torch, in each process."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
