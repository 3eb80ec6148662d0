"""Stand-ins for what tracing cannot see: the kernels that a device chooses, and what they take for themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from traced import BATCH, CARD, described, highest, levels, peak

from finetune.preflight.kernels import Attention, Kernels, grouped_mm, sdpa_kernel
from finetune.preflight.tape import DEQUANTISED, Recorder, Tape
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


def attend(device: str, kernel: str, tokens: int, groups: int, masked: bool = False) -> Tape:
    """Attention of 4 heads, of which `groups` have keys of their own, 40 wide, forward and backward: the real kernel of
    the CPU, or the stand-in for `kernel`."""
    recorder = Recorder(device, "cpu")
    q, k, v = (torch.ones(2, heads, tokens, 40, device=device, requires_grad=True) for heads in (4, groups, groups))
    mask = torch.ones(2, 1, tokens, tokens, device=device) if masked else None
    with recorder:
        if device == "cpu":
            out = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=not masked)
        else:
            out = Attention.apply(q, k, v, mask, kernel, recorder.tape, 0)
        torch.autograd.grad((out * 2).sum(), (q, k, v))
    return recorder.tape


@pytest.mark.parametrize("masked", [False, True])
def test_attention_takes_what_the_cpus_kernel_takes(masked: bool) -> None:
    meta, real = attend("meta", "cpu", 100, 4, masked), attend("cpu", "cpu", 100, 4, masked)
    assert meta.sizes == real.sizes
    assert peak(meta) == peak(real)


@pytest.mark.parametrize(
    ("kernel", "groups", "saved", "taken"),
    [
        # tokens of the sums that are saved; row sums and q's gradient in float32, and k's and v's of every head
        ("flash", 4, 130, [2 * 4 * 256, 2 * 256 * 4 * 64]),
        ("flash", 2, 130, [2 * 4 * 256, 2 * 256 * 4 * 64, 2 * 130 * 4 * 40, 2 * 130 * 4 * 40]),
        ("efficient", 4, 160, [2 * 4 * 192, 2 * 192 * 4 * 64]),
        ("cpu", 4, 130, []),
    ],
)
def test_attention_takes_its_kernels_buffers(kernel: str, groups: int, saved: int, taken: list[int]) -> None:
    """Worked by hand for 2 x 4 x 130 x 40 in float32: output, sums, product and loss; their gradients and buffers."""
    tape = attend("meta", kernel, 130, groups)
    out, own = 2 * 4 * 130 * 40, 2 * groups * 130 * 40
    assert [size // 4 for size in tape.sizes] == [out, 2 * 4 * saved, out, 1, 1, out, *taken, out, own, own]


def test_a_4bit_product_expands_its_weight(tmp_path: Path) -> None:
    """One weight at a time, in the type of the computation, forward and backward."""
    tape = trace(described(tmp_path, "llama3", device=CARD), BATCH)
    q, k, of_mlp = 64 * 64 * 2, 32 * 64 * 2, 176 * 64 * 2
    births = list(zip(tape.phases, tape.causes, tape.sizes, strict=True))
    forward = [size for phase, cause, size in births if (phase, cause) == ("layer forward", DEQUANTISED)]
    assert forward == [q, k, k, q, of_mlp, of_mlp, of_mlp] * 4  # two layers, two steps
    assert {size for phase, cause, size in births if cause == DEQUANTISED} == {q, k, of_mlp}
    assert highest(tape, DEQUANTISED) == of_mlp
