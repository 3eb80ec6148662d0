"""The model: built as described, and used once it is trained.

build.py   base weights loaded and quantised, or random; the adapter on top
use.py     a trained adapter loaded again; answers
merge.py   an adapter merged into dense weights
"""

from finetune.model.build import build_base, build_model
from finetune.model.merge import cast, dequantized, merge, stored_dtype, with_adapter
from finetune.model.use import answer, load_trained, stop_tokens

__all__ = [
    "answer",
    "build_base",
    "build_model",
    "cast",
    "dequantized",
    "load_trained",
    "merge",
    "stop_tokens",
    "stored_dtype",
    "with_adapter",
]
