"""One step of each recurrent cell, written out; torch's modules give the same numbers faster."""

from __future__ import annotations

import torch

State = tuple[torch.Tensor, ...]
"""h (B, H), and for an LSTM c (B, H)."""


def rnn(input_BG: torch.Tensor, state_BG: torch.Tensor, before: State) -> State:
    """Elman 1990. `input_BG` and `state_BG` are the products of input and state, with their biases."""
    return (torch.tanh(input_BG + state_BG),)


def gru(input_BG: torch.Tensor, state_BG: torch.Tensor, before: State) -> State:
    """Cho et al. 2014, with the reset gate behind the product, as cuDNN has it."""
    (ri, zi, ni), (rs, zs, ns) = input_BG.chunk(3, 1), state_BG.chunk(3, 1)
    reset, keep = torch.sigmoid(ri + rs), torch.sigmoid(zi + zs)
    new = torch.tanh(ni + reset * ns)
    return ((1 - keep) * new + keep * before[0],)


def lstm(input_BG: torch.Tensor, state_BG: torch.Tensor, before: State) -> State:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    write, forget, new, read = (input_BG + state_BG).chunk(4, 1)
    memory = torch.sigmoid(forget) * before[1] + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(read) * torch.tanh(memory), memory


CELLS = {"rnn": rnn, "gru": gru, "lstm": lstm}


def run(module: torch.nn.RNNBase, x_BND: torch.Tensor) -> torch.Tensor:
    """What one layer of a torch module gives, (B, N, H), step by step with its weights; the state begins at zero."""
    step = CELLS[module.mode.lower().removesuffix("_tanh")]
    before: State = (x_BND.new_zeros(len(x_BND), module.hidden_size),) * (2 if step is lstm else 1)
    inputs_BNG = torch.nn.functional.linear(x_BND, module.weight_ih_l0, module.bias_ih_l0)
    outputs = []
    for input_BG in inputs_BNG.unbind(1):
        state_BG = torch.nn.functional.linear(before[0], module.weight_hh_l0, module.bias_hh_l0)
        before = step(input_BG, state_BG, before)
        outputs.append(before[0])
    return torch.stack(outputs, 1)
