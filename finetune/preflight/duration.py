"""How long a run is expected to take: its floating-point operations over what the device makes of its peak rate.

Utilisation is the share of the peak that training reaches, counting every operation that runs, recomputed ones too; a
forward pass, its recomputation and the backward pass through frozen weights take 2 each for a weight and token.

Cards, from published runs whose tokens are known: Qwen-7B on an A100-80GB (README of QwenLM/Qwen: PEFT, FlashAttention
2, checkpointing, batch 1, eight to an update), 6 x 7.1e9 operations a token against 312 TFLOP/s:

    tokens in a micro batch      256    512   1024   2048   4096
    QLoRA, seconds an update     3.0    3.0    3.5    7.0   11.6
    utilisation                   9 %   19 %   32 %   32 %   39 %      (LoRA, 16-bit base: 43 % at 2,048)

Below a thousand tokens time stops falling: dequantising and launching kernels takes what it takes. The same training
was done in half the time by rewriting kernels alone: Mistral-7B on an A10G 594 -> 297 s, on an A100-40GB 1,813 -> 842 s
(both published by Unsloth). A range of a factor of two is therefore as narrow as an honest one can be here.

Where no such run is published the share is assumed: lower on Turing, whose T4 slows down at 70 W (Jia et al. 2019,
arXiv:1903.07486), and down to a tenth on Hopper, which is three times an A100 and waits for the same kernel launches.
Sampling a completion reads every weight for every token, and does so little with it that a card waits for its memory:
what is counted apart is the least that this can take, at the bandwidth of NVIDIA's data sheets. It takes longer where
kernels are small, and is never part of the range above.
CPUs: SmolLM2-135M with NF4 took 0.20 to 0.28 of the rate of a 512 x 512 product in bfloat16 and 0.59 to 0.64 in float32
(two cores with AVX512-BF16, 128 and 512 tokens; measured).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from finetune.preflight.hardware import Card, card_of
from finetune.preflight.step import Batch
from finetune.spec import Device, RunSpec

TERA, GIGA = 1e12, 1e9
UTILISATION = {7: (0.15, 0.35), 8: (0.25, 0.50), 9: (0.10, 0.40), 12: (0.20, 0.50)}
"""Low and high share of the peak rate, by major compute capability."""
CPU_UTILISATION = {2: (0.15, 0.35), 4: (0.40, 0.75)}
"""The same for a CPU's measured rate, by bytes of the compute type."""
BUSY_TOKENS = 1024
"""Tokens in a micro batch below which a step takes no less time."""
MEASURED_SECONDS, MEASURED_SIZE = 0.05, 512


@dataclass(frozen=True)
class Duration:
    """Expected seconds, from the fastest to the slowest, of one optimiser update and of the run.

    `update` is None where the device's rate is unknown, `total` also where the number of updates is; `basis` says what
    was assumed. `sampling` are the seconds that sampling the completions of an update takes at least, beside those: 0
    where nothing is sampled, None where a bound is unknown.
    """

    update: tuple[float, float] | None
    total: tuple[float, float] | None
    updates: int | None
    basis: str
    sampling: float | None = 0.0

    def words(self) -> str:
        """The expectation in a sentence."""
        if self.update is None:
            return f"time unknown: {self.basis}"
        each = f"{_range(self.update)} an update"
        words = f"{_range(self.total)} for {self.updates:,} updates, {each}" if self.total else each
        if self.sampling is None:
            return f"{words}; sampling completions not counted"
        return f"{words}; sampling completions adds {self.sampling:.2g} s or more to each" if self.sampling else words

    def to_json(self) -> dict[str, Any]:
        """Seconds as `[fastest, slowest]`, null where unknown."""
        return {
            "seconds_per_update": list(self.update) if self.update else None,
            "seconds": list(self.total) if self.total else None,
            "updates": self.updates,
            "sampling_seconds_per_update": self.sampling,
            "basis": self.basis,
        }


def expected_time(
    device: Device,
    flops_per_step: float,
    updates: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    tokens: int | None = None,
    sampled: int | None = None,
) -> Duration:
    """How long `updates` optimiser updates take on `device`.

    `flops_per_step` are the operations of one update: all its micro batches, what checkpointing recomputes included.
    `dtype` is the type of the products, the device's own choice where None; `tokens` are those of one micro batch;
    `sampled` the bytes that decoding the completions of an update reads at least, None where none are.
    On a CPU this multiplies matrices for 50 ms.
    """
    dtype = dtype or device.compute_dtype
    card = card_of(device)
    sampling = None if sampled and not card else (sampled or 0) / (GIGA * (card.bandwidth if card else 1))
    if device.kind == "cuda" and card is None:
        return Duration(
            None, None, updates, f"the rate of {device.name} is not known; name a card, such as RTX 4090", sampling
        )
    rate = _card_rate(card, dtype) if card else matmul_rate(dtype)
    low, high = UTILISATION[card.capability[0]] if card else CPU_UTILISATION[2 if dtype.itemsize == 2 else 4]
    waiting = max(1.0, BUSY_TOKENS / tokens) if card and tokens else 1.0
    update = (flops_per_step / rate / high, flops_per_step / rate / low * waiting)
    total = (update[0] * updates, update[1] * updates) if updates is not None else None
    return Duration(update, total, updates, _basis(device, rate, dtype, low / waiting, high), sampling)


def sampled_bytes(spec: RunSpec, batch: Batch) -> int:
    """Bytes that decoding a batch's completions reads at least: every weight once for every token but the first, the
    embeddings aside, of which few are read, and the experts of a mixture, of which not all may be."""
    tied = getattr(spec.model_config.get_text_config(), "tie_word_embeddings", False)
    read = (t for t in spec.tensors if len(t.shape) < 3 and (tied or "embed_tokens" not in t.name))
    return sum(tensor.bytes for tensor in read) * (batch.tokens - batch.prompt_tokens - 1)


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations a second of this machine's CPU in a matrix product: the fastest of those that 50 ms have room for."""
    matrix = torch.ones(MEASURED_SIZE, MEASURED_SIZE, dtype=dtype)
    start, fastest = time.perf_counter(), float("inf")
    while time.perf_counter() - start < MEASURED_SECONDS or fastest == float("inf"):
        before = time.perf_counter()
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * MEASURED_SIZE**3 / fastest


def _card_rate(card: Card, dtype: torch.dtype) -> float:
    """Peak operations a second in a type: 16-bit ones on tensor cores, but bfloat16 before Ampere only emulated."""
    on_tensor_cores = dtype == torch.float16 or (dtype == torch.bfloat16 and card.capability >= (8, 0))
    return TERA * (card.tensor_tflops if on_tensor_cores else card.fp32_tflops)


def _basis(device: Device, rate: float, dtype: torch.dtype, low: float, high: float) -> str:
    name = str(dtype).removeprefix("torch.")
    how = "measured on this CPU" if device.kind == "cpu" else f"the {device.name}'s peak"
    return f"{low:.0%} to {high:.0%} of {rate / TERA:.3g} TFLOP/s in {name}, {how}"


def _range(seconds: tuple[float, float]) -> str:
    """Both ends in the larger one's unit: `2.5 to 5.1 h`."""
    size, unit = next((s, u) for s, u in ((86_400, "days"), (3600, "h"), (60, "min"), (0, "s")) if seconds[1] >= 2 * s)
    low, high = (f"{value:.0f}" if value >= 10 else f"{value:.2g}" for value in (s / (size or 1) for s in seconds))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
