"""What two models say of the same texts: how far their distributions over the next token are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

QUESTIONS = (
    "What does a carpenter do?",
    "Write one sentence about the sea.",
    "What is 17 + 25?",
    "Name three colours.",
    "Translate 'good morning' into French.",
    "Why is the sky blue?",
    "def add(a, b):",
    "Who wrote Hamlet, and when?",
)
"""Texts that models are compared on: any will do that are of several kinds."""

LARGEST = 0.01
"""Nats a token by which merging may change what the model says: rounding to bfloat16 changes less, a wrong scale,
transpose or tie more (tests/export/test_merge.py measures both)."""


@dataclass(frozen=True)
class Parity:
    """`divergence` is the mean Kullback-Leibler divergence of the second model from the first in nats a token,
    `agreement` the share of tokens of which both say the same is the likeliest."""

    divergence: float
    agreement: float


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Of each text, given as tokens, the logarithms of the probabilities of every next token: (tokens, vocabulary)
    in float32 on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    found = (model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0] for ids in texts)
    return [logits.float().log_softmax(-1).cpu() for logits in found]


def compare(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> Parity:
    """Two models' log probabilities of the same texts."""
    apart = agreed = tokens = 0.0
    for one, other in zip(first, second, strict=True):
        apart += float((one.exp() * (one - other)).sum(-1).double().sum())
        agreed += float((one.argmax(-1) == other.argmax(-1)).sum())
        tokens += len(one)
    return Parity(max(apart, 0.0) / tokens, agreed / tokens)
