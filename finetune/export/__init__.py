"""What was trained, in the forms that other programs load.

parity.py      what two models say of the same texts, compared
directory.py   the merged model as a directory, and the proof that it reads back as what was merged
gguf_file.py   that directory as one file for llama.cpp
gguf_families.py, gguf_tokenizer.py    what it knows of families and tokenizers
gguf_adapter.py    the adapter alone as such a file
llama_cpp.py   llama.cpp's own answers, where it is installed
card.py        the page that goes with it
"""

from finetune.export.card import write_card
from finetune.export.directory import prove_directory, save_directory
from finetune.export.gguf_adapter import write_gguf_adapter
from finetune.export.gguf_file import write_gguf
from finetune.export.parity import Parity, compare, log_probabilities

__all__ = [
    "Parity",
    "compare",
    "log_probabilities",
    "prove_directory",
    "save_directory",
    "write_card",
    "write_gguf",
    "write_gguf_adapter",
]
