"""Stand-ins for what tracing cannot see: kernels that a card would choose, and the state of optimisers."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch
from torch.nn import functional
from traced import BATCH, described, levels, peak

from finetune.preflight.kernels import Kernels, grouped_mm, sdpa_kernel
from finetune.preflight.optimisers import CODE, state_sizes
from finetune.preflight.tape import OPTIMISER, Recorder, Tape
from finetune.preflight.trace import trace

SCORES = (2, 4, 8, 8)
ELEMENTS = 2 * 4 * 8 * 8


@pytest.mark.parametrize(
    ("target", "capability", "dtype", "masked", "kernel"),
    [
        ("cuda", (8, 6), torch.bfloat16, False, "flash"),
        ("cuda", None, torch.float16, False, "flash"),  # a card known by its memory alone is taken for a new one
        ("cuda", (8, 6), torch.bfloat16, True, "efficient"),
        ("cuda", (8, 6), torch.float32, False, "efficient"),
        ("cuda", (7, 5), torch.float16, False, "efficient"),
        ("cpu", None, torch.bfloat16, False, "cpu"),
        ("cpu", None, torch.float32, True, "cpu"),
    ],
)
def test_the_attention_kernel_is_the_devices_choice(
    target: str, capability: tuple[int, int] | None, dtype: torch.dtype, masked: bool, kernel: str
) -> None:
    assert sdpa_kernel(target, capability, dtype, masked) == kernel


def births(recorder: Recorder, operation: str) -> list[int]:
    tape = recorder.tape
    return [size for size, op in zip(tape.sizes, tape.ops, strict=True) if operation in op]


def softmax(target: str, dtype: torch.dtype) -> Recorder:
    """The softmax of scores of `dtype` in float32, and its backward pass."""
    scores = torch.empty(SCORES, dtype=dtype, device="meta", requires_grad=True)
    recorder = Recorder("meta", target)
    with Kernels(target, (7, 5), recorder.tape), recorder:
        functional.softmax(scores, dim=-1, dtype=torch.float32).sum().backward()
    return recorder


@pytest.mark.parametrize(
    ("target", "dtype", "copies"),
    [("cuda", torch.float16, 0), ("cpu", torch.float16, 1), ("cuda", torch.bfloat16, 1), ("cuda", torch.float32, 0)],
)
def test_cudas_softmax_reads_float16_without_a_copy(target: str, dtype: torch.dtype, copies: int) -> None:
    recorder = softmax(target, dtype)
    assert births(recorder, "_to_copy").count(4 * ELEMENTS) == copies
    assert births(recorder, "_softmax.default") == [4 * ELEMENTS]


def test_cudas_softmax_backward_multiplies_first() -> None:
    card, cpu = softmax("cuda", torch.float32), softmax("cpu", torch.float32)
    name = "_softmax_backward_data"
    assert births(cpu, name) == [4 * ELEMENTS]
    assert births(card, name) == [4 * ELEMENTS] * 2
    assert peak(card.tape) - peak(cpu.tape) == 4 * ELEMENTS


@pytest.mark.parametrize(("target", "size"), [("cuda", ELEMENTS), ("cpu", 4 * ELEMENTS)])
def test_cudas_dropout_keeps_a_byte_an_element(target: str, size: int) -> None:
    x = torch.empty(SCORES, device="meta", requires_grad=True)
    recorder = Recorder("meta", target)
    with Kernels(target, None, recorder.tape), recorder:
        result = functional.dropout(x * 2, 0.1)  # keeps its mask and not its input
    assert result.shape == SCORES
    assert levels(recorder.tape)[-1] == 4 * ELEMENTS + size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_grouped_products_take_what_real_ones_take(dtype: torch.dtype, trained: bool) -> None:
    """Three experts of 8 x 16, rows sorted by them; also where the experts' weights are trained."""

    def run(device: str) -> Tape:
        rows = torch.ones(12, 8, dtype=dtype, device=device, requires_grad=True)
        weight = torch.ones(3, 8, 16, dtype=dtype, device=device, requires_grad=trained)
        ends = torch.tensor([4, 8, 12], dtype=torch.int32, device=device)
        recorder = Recorder(device, "cpu")
        with recorder:
            product = functional.grouped_mm if device == "cpu" else grouped_mm
            (product(rows * 2, weight * 2, offs=ends) * 2).sum().backward()
        return recorder.tape

    meta, real = run("meta"), run("cpu")
    assert sorted(meta.sizes) == sorted(real.sizes)
    assert peak(meta) == peak(real)


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
