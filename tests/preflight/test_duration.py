"""Expected time: published runs lie inside the range, and what is not known is said."""

from __future__ import annotations

import timeit

import pytest
import torch

from finetune.preflight.duration import CPU_UTILISATION, UTILISATION, Duration, expected_time, matmul_rate
from finetune.preflight.hardware import CARDS, find_card
from finetune.spec import Device

QWEN_7B = 6 * 7.1e9
"""Operations a token of Qwen-7B: its weights but the embeddings, forward, recomputed and backward."""
UPDATE = 1e15


@pytest.mark.parametrize(
    ("tokens", "seconds"), [(256, 3.0), (512, 3.0), (1024, 3.5), (2048, 7.0), (4096, 11.6), (8192, 22.3)]
)
def test_published_qlora_runs_on_an_a100(tokens: int, seconds: float) -> None:
    """Q-LoRA of Qwen-7B, batch 1, eight micro batches an update (README of QwenLM/Qwen)."""
    low, high = expected_time(find_card("A100 80GB"), QWEN_7B * tokens * 8, tokens=tokens).update
    assert low < seconds < high


def test_the_rate_and_the_updates_are_what_counts() -> None:
    one, slow = expected_time(find_card("4090"), UPDATE, 1), expected_time(find_card("3090"), UPDATE, 100)
    assert one.update == one.total == pytest.approx((UPDATE / 165.2e12 / 0.5, UPDATE / 165.2e12 / 0.25))
    assert slow.total == pytest.approx(tuple(100 * seconds for seconds in slow.update))
    assert slow.update[0] / one.update[0] == pytest.approx(165.2 / 71.2)


def test_short_micro_batches_leave_a_card_waiting() -> None:
    full = expected_time(find_card("4090"), UPDATE, tokens=4096)
    short = expected_time(find_card("4090"), UPDATE, tokens=256)
    assert short.update == pytest.approx((full.update[0], 4 * full.update[1]))
    assert short.basis.startswith("6% to 50% of")


def test_types_that_tensor_cores_lack() -> None:
    t4, ampere = find_card("T4"), find_card("RTX 3090")
    half = expected_time(t4, UPDATE).update[0]
    assert expected_time(t4, UPDATE, dtype=torch.bfloat16).update[0] == pytest.approx(half * 65 / 8.1)
    assert expected_time(ampere, UPDATE).update == expected_time(ampere, UPDATE, dtype=torch.float16).update
    assert expected_time(ampere, UPDATE, dtype=torch.float32).update[0] == pytest.approx(2 * UPDATE / 35.6e12)


def test_every_card_has_an_assumption() -> None:
    assert {card.capability[0] for card in CARDS.values()} <= set(UTILISATION)
    assert all(0 < low < high < 1 for low, high in [*UTILISATION.values(), *CPU_UTILISATION.values()])


def test_a_card_of_unknown_make_has_no_expected_time() -> None:
    unknown = expected_time(find_card("24GiB"), UPDATE, 10)
    assert unknown.words() == "time unknown: the rate of a card of 24GiB is not known; name a card, such as RTX 4090"
    assert (unknown.to_json()["seconds"], unknown.to_json()["seconds_per_update"]) == (None, None)


def by_timeit(dtype: torch.dtype) -> float:
    """Operations a second in products of (384, 640) by (640, 512)."""
    left, right = torch.ones(384, 640, dtype=dtype), torch.ones(640, 512, dtype=dtype)
    return 2 * 384 * 640 * 512 / min(timeit.repeat(lambda: left @ right, number=1, repeat=20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_is_measured(dtype: torch.dtype) -> None:
    cpu = Device("cpu", "CPU", 2**34, bf16=dtype == torch.bfloat16)
    expected = expected_time(cpu, 1e12, 2)
    shortest, longest = CPU_UTILISATION[dtype.itemsize]
    assert expected.update[1] / expected.update[0] == pytest.approx(longest / shortest)
    implied = 1e12 / expected.update[0] / longest
    # By another matrix and another clock; a busy machine can be slow, once.
    assert 0.1 < implied / by_timeit(dtype) < 10
    assert 0.1 < matmul_rate(dtype) / by_timeit(dtype) < 10
    assert "measured on this CPU" in expected.basis


def test_in_words() -> None:
    assert (
        expected_time(find_card("RTX 4090"), UPDATE, 250).words()
        == "50 to 101 min for 250 updates, 12 to 24 s an update"
    )
    assert Duration((1.0, 2.0), None, None, "").words() == "1 to 2 s an update"
    assert (
        Duration((1.0, 2.0), (86_400, 172_800), 86_400, "").words()
        == "1 to 2 days for 86,400 updates, 1 to 2 s an update"
    )


def test_sampling_is_apart_and_at_least_what_reading_the_weights_takes() -> None:
    """100.8 GB at the 1,008 GB/s of an RTX 4090: a tenth of a second, beside the rest and never part of it."""
    plain = expected_time(find_card("RTX 4090"), UPDATE, 250)
    sampled = expected_time(find_card("RTX 4090"), UPDATE, 250, sampled=100_800_000_000)
    assert sampled.sampling == pytest.approx(0.1)
    assert (sampled.update, sampled.total) == (plain.update, plain.total)
    assert sampled.words() == plain.words() + "; sampling completions adds 0.1 s or more to each"
    cpu = expected_time(Device("cpu", "CPU", 2**34, bf16=False), UPDATE, sampled=100_800_000_000)
    assert cpu.sampling is None
    assert cpu.words().endswith("; sampling completions not counted")


def test_as_json() -> None:
    assert expected_time(find_card("RTX 3090"), 71.2e12, 2).to_json() == {
        "seconds_per_update": [2.0, 4.0],
        "seconds": [4.0, 8.0],
        "updates": 2,
        "sampling_seconds_per_update": 0.0,
        "basis": "25% to 50% of 71.2 TFLOP/s in bfloat16, the RTX 3090's peak",
    }
