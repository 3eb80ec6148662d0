"""The model: built as described, and used once it is trained.

build.py   base weights loaded and quantised, or random; the adapter on top
use.py     a trained adapter loaded again; answers
"""

from finetune.model.build import build_base, build_model
from finetune.model.use import answer, load_trained

__all__ = ["answer", "build_base", "build_model", "load_trained"]
