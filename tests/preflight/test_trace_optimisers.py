"""The state of optimisers on the tape is as large as that of the real ones."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch
from traced import BATCH, described

from finetune.preflight.optimisers import CODE, state_sizes
from finetune.preflight.tape import OPTIMISER, Tape
from finetune.preflight.trace import trace


@pytest.mark.parametrize("elements", [1, 100, 4095, 4096, 5000, 99_999, 100_000, 262_144])
@pytest.mark.parametrize(
    ("name", "optimiser"),
    [("adamw_8bit", bitsandbytes.optim.AdamW8bit), ("adamw_32bit", bitsandbytes.optim.AdamW32bit)],
)
def test_states_are_as_large_as_bitsandbytes_makes_them(
    name: str, optimiser: type[torch.optim.Optimizer], elements: int
) -> None:
    state = stepped(optimiser, [elements])[0]
    codes = [value.nbytes for key, value in state.items() if key.startswith("qmap")]
    assert codes == ([CODE] * 2 if "8bit" in name and elements >= 4096 else [])
    sizes = [value.nbytes for key, value in state.items() if torch.is_tensor(value) and not key.startswith("qmap")]
    assert sorted(sizes) == sorted(state_sizes(name, elements))
    paged = state_sizes(f"paged_{name}", elements)
    assert sum(paged) < sum(sizes) if elements >= 100_000 else paged == state_sizes(name, elements)


def stepped(optimiser: type[torch.optim.Optimizer], counts: list[int]) -> list[dict]:
    """States of tensors of so many elements after one step."""
    tensors = [torch.nn.Parameter(torch.ones(count)) for count in counts]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    made = optimiser(tensors, lr=1e-3)
    made.step()
    return [made.state[tensor] for tensor in tensors]


@pytest.mark.parametrize(
    ("name", "optimiser"), [("adamw_torch", torch.optim.AdamW), ("adamw_8bit", bitsandbytes.optim.AdamW8bit)]
)
@pytest.mark.parametrize("rank", [4, 80])
def test_a_trace_holds_the_whole_state(
    tmp_path: Path, name: str, optimiser: type[torch.optim.Optimizer], rank: int
) -> None:
    """Also the two codes of 8-bit state, which all tensors share and which come with the first that is large enough."""
    spec = described(tmp_path, "smollm2", f"training.optimizer={name}", f"lora.r={rank}")
    states = stepped(optimiser, [tensor.elements for tensor in spec.tensors if tensor.trainable])
    tensors = [value for state in states for value in state.values() if torch.is_tensor(value)]
    storages = {tensor.untyped_storage()._cdata: tensor.nbytes for tensor in tensors}
    assert alive_between_steps(trace(spec, BATCH)) == sum(storages.values())


def alive_between_steps(tape: Tape) -> int:
    """Bytes of the optimiser when the second micro step begins."""
    alive = 0
    for event in tape.events[: tape.last_update]:
        number = event if event >= 0 else ~event
        if tape.causes[number] == OPTIMISER:
            alive += tape.sizes[number] if event >= 0 else -tape.sizes[number]
    return alive
