"""Associative recall over a gap: keys with their values, noise, and a key again; which value did it have?

What a layer can do in one step (attention: the path is 1) a recurrence has to carry through every step of the gap. The
gradient that would teach it to carries over as many steps, and is gone before the first success (Bengio et al. 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from finetune.sequence.measure import one_thread

KEYS = VALUES = NOISE = 8
PAIRS = 2
WIDTH, LAYERS, HEADS = 64, 2, 4
ROWS = 64
RATES = {"transformer": 1e-3, "lstm": 1e-2, "lstm, gates open": 1e-2}
"""Adam's learning rate, the best of 3e-4, 1e-3, 3e-3 and 1e-2 at gaps of 0 and 16."""
TESTED = 1_024


def sample(rows: int, gap: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (rows, 2 PAIRS + gap + 1) of tokens and the value asked for (rows). Chance is 1 / VALUES; who knows the
    values but not whose they are is right in 1 / PAIRS of the rows and a little more."""
    keys_BP = torch.rand(rows, KEYS, generator=generator).argsort(1)[:, :PAIRS]
    values_BP = torch.randint(VALUES, (rows, PAIRS), generator=generator)
    noise_BN = KEYS + VALUES + torch.randint(NOISE, (rows, gap), generator=generator)
    asked_B1 = torch.randint(PAIRS, (rows, 1), generator=generator)
    told_BT = torch.stack([keys_BP, KEYS + values_BP], 2).flatten(1)
    return torch.cat([told_BT, noise_BN, keys_BP.gather(1, asked_B1)], 1), values_BP.gather(1, asked_B1)[:, 0]


class Transformer(nn.Module):
    """LAYERS of torch's encoder layers, causal, with the positions of Vaswani et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(KEYS + VALUES + NOISE, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VALUES)

    def forward(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """Scores of the values, (B, VALUES)."""
        length = tokens_BN.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x_BND = self.tokens(tokens_BN) + _positions(length)
        return self.head(self.layers(x_BND, mask=mask, is_causal=True)[:, -1])


class Recurrent(nn.Module):
    """One LSTM. `open_for`: its forget gates start so that a memory lasts about that many steps (Tallec and Ollivier
    2018, "Can recurrent neural networks warp time?"); None starts as torch does."""

    def __init__(self, hidden: int, open_for: int | None = None) -> None:
        super().__init__()
        self.tokens = nn.Embedding(KEYS + VALUES + NOISE, WIDTH)
        self.lstm = nn.LSTM(WIDTH, hidden, batch_first=True)
        self.head = nn.Linear(hidden, VALUES)
        if open_for is not None:
            with torch.no_grad():
                self.lstm.bias_hh_l0[hidden : 2 * hidden] = math.log(open_for)

    def forward(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """Scores of the values, (B, VALUES)."""
        return self.head(self.lstm(self.tokens(tokens_BN))[0][:, -1])


@dataclass(frozen=True)
class Recall:
    """Accuracy on TESTED fresh rows after the updates of a training at one gap, and the model's parameters."""

    accuracy: float
    parameters: int


def models(gap: int) -> dict[str, Callable[[], nn.Module]]:
    """The models by name, of about as many parameters each."""
    hidden = hidden_like(count(Transformer()))
    return {
        "transformer": Transformer,
        "lstm": lambda: Recurrent(hidden),
        "lstm, gates open": lambda: Recurrent(hidden, open_for=2 * PAIRS + gap),
    }


def recall(name: str, gap: int, updates: int, seed: int = 0, rate: float | None = None) -> Recall:
    """Trains a model from its start on sequences with one gap, at its rate of RATES where none is given. On one thread:
    products this small lose by a second."""
    with one_thread():
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = models(gap)[name]()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate or RATES[name])
        for _ in range(updates):
            tokens_BN, values_B = sample(ROWS, gap, generator)
            loss = nn.functional.cross_entropy(model(tokens_BN), values_B)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return Recall(_accuracy(model.eval(), gap, generator), count(model))


def _accuracy(model: nn.Module, gap: int, generator: torch.Generator) -> float:
    tokens_BN, values_B = sample(TESTED, gap, generator)
    with torch.no_grad():
        return float((model(tokens_BN).argmax(1) == values_B).double().mean())


def count(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def hidden_like(parameters: int) -> int:
    """The width of an LSTM whose model has about so many parameters."""
    return min(range(8, 512), key=lambda hidden: abs(count_recurrent(hidden) - parameters))


def count_recurrent(hidden: int) -> int:
    """Parameters of `Recurrent`: embeddings, cell, head."""
    return (KEYS + VALUES + NOISE) * WIDTH + 4 * hidden * (WIDTH + hidden + 2) + VALUES * (hidden + 1)


def _positions(length: int) -> torch.Tensor:
    """Sines and cosines (length, WIDTH)."""
    rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10_000.0) / WIDTH))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
