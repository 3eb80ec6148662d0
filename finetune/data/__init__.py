"""Data: sources and formats become messages, messages become tokens with a loss mask, tokens become packs.

rows.py       files and hub data sets, read row by row with their place
formats.py    messages, ShareGPT, Alpaca, prompt/completion and text, found by looking
template.py   conversations rendered by the tokenizer's chat template
turns.py      which characters of a rendered conversation are trained, for any chat template
tool_text.py  tool calls as text, for templates that write none
encode.py     tokens and labels of one example
packs.py      rows become packs as full as they get, and the data set of a trainer
load.py       the whole of `data:`, counted
notes.py      what was found and decided, said aloud
collate.py    rows become a batch, padded or packed
check.py      defects found without a model: lines.py by bytes, rules/ by row and across rows; chunks.py, tally.py and
              findings.py serve it
preview.py    examples with the trained tokens coloured
docstrings.py the quickstart's questions and answers, from the standard library's docstrings
"""

from finetune.data.check import check_file, check_sources
from finetune.data.collate import Collator
from finetune.data.encode import IGNORED, Encoded, Encoder
from finetune.data.findings import CheckResult
from finetune.data.load import LoadedData, Split, SplitStats, load_data
from finetune.data.packs import to_dataset
from finetune.data.preview import preview

__all__ = [
    "IGNORED",
    "CheckResult",
    "Collator",
    "Encoded",
    "Encoder",
    "LoadedData",
    "Split",
    "SplitStats",
    "check_file",
    "check_sources",
    "load_data",
    "preview",
    "to_dataset",
]
