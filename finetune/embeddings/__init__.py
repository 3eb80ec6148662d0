"""Texts and words become vectors: of sentence encoders, and of the inner states of any encoder or language model.

encoders.py     texts: sentence encoders and language models under one interface, opened by name
layers.py       words where they stand, words by themselves, and texts, at any layer; with an adapter or without
occurrences.py  a word where it stands in a text
loading.py      the models behind both
"""

from finetune.embeddings.encoders import TextEncoder, open_encoder
from finetune.embeddings.layers import LayerEncoder, TokenStates, open_layers
from finetune.embeddings.loading import PACKAGED
from finetune.embeddings.occurrences import Occurrence

__all__ = ["PACKAGED", "LayerEncoder", "Occurrence", "TextEncoder", "TokenStates", "open_encoder", "open_layers"]
