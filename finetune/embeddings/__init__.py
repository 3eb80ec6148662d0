"""Texts become vectors of unit length: sentence encoders, and the hidden states of a language model.

encoders.py  both under one interface, opened by name
"""

from finetune.embeddings.encoders import PACKAGED, TextEncoder, open_encoder

__all__ = ["PACKAGED", "TextEncoder", "open_encoder"]
