"""Autocast emulated on meta tensors casts as torch's own: the CPU's as it runs here, CUDA's as its header says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from finetune.preflight.autocast import FLOAT, FLOAT_ON_CUDA, LOWER, SUMS_ON_CUDA, emulated_autocast, replaced
from finetune.preflight.tape import Recorder

HALF, SINGLE = torch.bfloat16, torch.float32
EITHER = [HALF, SINGLE]

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: functional.linear(x, x, x[0]),
    "matmul": lambda x: x @ x,
    "mm": lambda x: torch.mm(x, x),
    "bmm": lambda x: torch.bmm(x[None], x[None]),
    "baddbmm": lambda x: torch.baddbmm(x[None], x[None], x[None]),
    "addmm": lambda x: torch.addmm(x, x, x),
    "einsum": lambda x: torch.einsum("ij,jk->ik", x, x),
    "conv1d": lambda x: functional.conv1d(x[None], x[:, :, None]),
    "scaled_dot_product_attention": lambda x: functional.scaled_dot_product_attention(*[x[None, None]] * 3),
    "cross_entropy": lambda x: functional.cross_entropy(x, torch.zeros(4, dtype=torch.long, device=x.device)),
    "nll_loss": lambda x: functional.nll_loss(x, torch.zeros(4, dtype=torch.long, device=x.device)),
    "mse_loss": lambda x: functional.mse_loss(x, x),
    "softmax": lambda x: functional.softmax(x, dim=-1),
    "softmax in float32": lambda x: functional.softmax(x, dim=-1, dtype=torch.float32),
    "log_softmax": lambda x: x.log_softmax(-1),
    "layer_norm": lambda x: functional.layer_norm(x, (4,)),
    "rms_norm": lambda x: functional.rms_norm(x, (4,)),
    "sum": lambda x: x.sum(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "norm": lambda x: torch.linalg.norm(x, dim=1),
    "pow": lambda x: x**2,
    "rsqrt": lambda x: torch.rsqrt(x),
    "exp": lambda x: x.exp(),
    "mean": lambda x: x.mean(-1),
    "mul": lambda x: x * x,
    "mul of both": lambda x: x * torch.ones(4, dtype=HALF, device=x.device),
    "add": lambda x: x + x,
    "cat": lambda x: torch.cat([x, torch.ones_like(x, dtype=HALF)]),
    "silu": lambda x: functional.silu(x),
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": lambda x: torch.sigmoid(x),
    "tanh": lambda x: torch.tanh(x),
    "embedding": lambda x: functional.embedding(torch.zeros(2, dtype=torch.long, device=x.device), x),
    "topk": lambda x: x.topk(2).values,
}
ON_CUDA = {
    "softmax": SINGLE, "log_softmax": SINGLE, "layer_norm": SINGLE, "rms_norm": SINGLE, "sum": SINGLE,
    "cumsum": SINGLE, "norm": SINGLE, "pow": SINGLE, "rsqrt": SINGLE, "exp": SINGLE,
}  # fmt: skip
"""Results of 16-bit input where CUDA's list has what the CPU's has not."""


def result(name: str, dtype: torch.dtype, target: str) -> torch.dtype:
    x = torch.ones(4, 4, dtype=dtype, device="meta")
    with emulated_autocast(HALF, target):
        return FUNCTIONS[name](x).dtype


@pytest.mark.parametrize("dtype", EITHER, ids=["half", "single"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_of_the_type_that_autocast_gives(name: str, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", HALF):
        real = FUNCTIONS[name](torch.ones(4, 4, dtype=dtype)).dtype
    assert result(name, dtype, "cpu") == real
    assert result(name, dtype, "cuda") == (ON_CUDA.get(name, real) if dtype == HALF else real)


def header() -> dict[str, set[str]]:
    """Functions that torch's header lists under each of CUDA's cast policies."""
    text = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text(encoding="utf-8")
    lists = re.findall(r"#define AT_FORALL_(\w+)\(_\)(.*?)\n\n", text, re.DOTALL)
    return {policy: set(re.findall(r"_\((\w+)[,)]", names)) for policy, names in lists}


@pytest.mark.parametrize(
    ("functions", "policy", "composite"),
    [
        (LOWER, "LOWER_PRECISION_FP", set()),
        (FLOAT | FLOAT_ON_CUDA, "FP32", {"cross_entropy"}),  # ends in nll_loss
        (SUMS_ON_CUDA, "FP32_SET_OPT_DTYPE", {"norm", "linalg_norm"}),  # end in linalg_vector_norm
    ],
    ids=["lower", "float", "sums"],
)
def test_cudas_lists_are_those_of_the_header(functions: set[Callable], policy: str, composite: set[str]) -> None:
    names = {re.sub(r"^__r?|__$", "", function.__name__) for function in functions}
    assert names - composite <= header()[policy]


def test_sums_read_their_input_without_a_copy() -> None:
    x = torch.ones(64, 64, dtype=HALF, device="meta")
    recorder = Recorder("meta", "cuda")
    with recorder, emulated_autocast(HALF, "cuda"):
        x.sum(-1)
    assert recorder.tape.sizes == [64 * 4]


def test_a_trained_weight_is_cast_once_until_autocast_ends() -> None:
    weight, x = torch.nn.Parameter(torch.ones(8, 8, device="meta")), torch.ones(4, 8, dtype=HALF, device="meta")
    recorder = Recorder("meta", "cuda")
    with recorder:
        with emulated_autocast(HALF, "cuda"):
            for _ in range(3):
                functional.linear(x, weight)
        with emulated_autocast(HALF, "cuda"):
            functional.linear(x, weight)
    assert recorder.tape.ops.count("aten._to_copy.default") == 2


def test_autocast_is_switched_off_inside() -> None:
    x = torch.ones(4, 4, device="meta")
    with emulated_autocast(HALF, "cuda"):
        with torch.autocast("meta", enabled=False):
            assert (x @ x).dtype == SINGLE and not torch.is_autocast_enabled()
            with torch.autocast("meta", enabled=True):
                assert (x @ x).dtype == HALF
        with pytest.raises(ArithmeticError), torch.autocast("meta", enabled=False):
            raise ArithmeticError
        assert (x @ x).dtype == HALF


def test_who_asks_is_told_what_the_device_would_say() -> None:
    with emulated_autocast(HALF, "cuda"):
        assert torch.is_autocast_enabled() and torch.is_autocast_enabled("meta")
        assert torch.get_autocast_dtype("meta") == HALF
    with emulated_autocast(HALF, "cpu"):
        assert torch.is_autocast_enabled("cpu") and torch.is_autocast_enabled("meta")
        assert not torch.is_autocast_enabled()
    with torch.autocast("cpu", HALF):
        assert not torch.is_autocast_enabled()  # as torch itself says
    with emulated_autocast(None, "cuda"):
        assert not torch.is_autocast_enabled()
        with torch.autocast("meta", enabled=False):
            pass


def test_torchs_functions_come_back_even_from_an_error() -> None:
    names = ["autocast", "is_autocast_enabled", "get_autocast_dtype"]
    before = [getattr(torch, name) for name in names]
    with pytest.raises(ArithmeticError), emulated_autocast(HALF, "cuda"):
        assert [getattr(torch, name) for name in names] != before
        raise ArithmeticError
    assert [getattr(torch, name) for name in names] == before
    x = torch.ones(4, 4, device="meta")
    assert (x @ x).dtype == SINGLE
    with pytest.raises(AttributeError), replaced(torch, no_such_name=None):
        pass
