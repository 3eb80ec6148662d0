"""Cards: found by whatever they are called, and what the table says of them is possible."""

from __future__ import annotations

import re

import pytest

from finetune.errors import ConfigError
from finetune.preflight.hardware import (
    CARDS,
    MIB,
    card_of,
    context_bytes,
    context_measured,
    find_card,
    workspace_bytes,
)
from finetune.spec import Device


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("RTX 4090 24 GB", "RTX 4090"),
        ("Tesla T4", "T4"),
        ("nvidia geforce rtx 3090", "RTX 3090"),
        ("3090ti", "RTX 3090 Ti"),
        ("4070 Ti SUPER", "RTX 4070 Ti Super"),
        ("rtx4070tisuper", "RTX 4070 Ti Super"),
        ("4060 Ti 16GiB", "RTX 4060 Ti 16GB"),
        ("a100-80gb", "A100-80GB"),
        ("A100 80GB", "A100-80GB"),
        ("A6000", "RTX A6000"),
    ],
)
def test_people_write_a_name_in_many_ways(text: str, name: str) -> None:
    device = find_card(text)
    assert (device.name, device.kind, device.present) == (name, "cuda", False)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti Super"),
    ],
)
def test_names_that_drivers_report(driver: str, name: str) -> None:
    assert card_of(Device("cuda", driver, 2**34, bf16=True)) is CARDS[name]


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("A100", "A100-40GB, A100-80GB"),
        ("3080", "RTX 3080 10GB, RTX 3080 12GB"),
        ("4060 ti", "RTX 4060 Ti 8GB, RTX 4060 Ti 16GB"),
        ("H100 80GB", "H100 PCIe, H100 SXM"),
    ],
)
def test_a_name_that_several_cards_have(text: str, candidates: str) -> None:
    with pytest.raises(ConfigError, match=f"^--gpu: '{text}' is several cards") as caught:
        find_card(text)
    assert caught.value.hint == f"say which: {candidates}"


@pytest.mark.parametrize(
    "text", ["4070 ti", "RTX 4090 Laptop GPU", "RTX 3060 Ti", "H100 NVL", "RTX 4090 48GB", "RTX 6000"]
)
def test_a_card_is_not_taken_for_its_neighbour(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--gpu: '{text}' is not a known card") as caught:
        find_card(text)
    assert "any other by its memory, such as 24GiB" in caught.value.hint


def test_a_size_without_unit_and_a_misprint() -> None:
    with pytest.raises(ConfigError, match="'24' is not a memory size") as caught:
        find_card("24")
    assert "--gpu 24GiB" in caught.value.hint
    with pytest.raises(ConfigError, match=r"'4095' is not a known card; did you mean RTX 4090\?"):
        find_card("4095")


def test_a_size_is_a_card_of_unknown_make() -> None:
    device = find_card("24GiB")
    assert (device.memory_bytes, device.capability, card_of(device)) == (24 * 2**30, None, None)


def test_every_card_is_found_by_its_own_name_and_known_again() -> None:
    for name, card in CARDS.items():
        device = find_card(name)
        assert (device.name, device.memory_bytes, device.capability) == (name, card.memory_bytes, card.capability)
        assert device.bf16 is (card.capability >= (8, 0)), name
        assert card_of(device) is card


def test_cards_that_share_a_name_are_told_apart_by_memory() -> None:
    assert card_of(Device("cuda", "NVIDIA GeForce RTX 3080", 10 * 2**30, bf16=True)) is CARDS["RTX 3080 10GB"]
    assert card_of(Device("cuda", "NVIDIA GeForce RTX 3080", 12 * 2**30, bf16=True)) is CARDS["RTX 3080 12GB"]
    assert card_of(Device("cpu", "T4", 2**34, bf16=False)) is None


def test_torch_reports_a_little_less_than_the_box_says() -> None:
    for name, card in CARDS.items():
        nominal = int(re.search(r"(\d+)gb", f"{name} {card.variant}".lower())[1])
        assert 0.90 < card.memory_bytes / (nominal * 2**30) < 1, name


def test_rates_agree_with_the_architecture() -> None:
    """Tensor cores over ordinary ones is a number of the chip: 2 on GeForce since Ampere, 4 on workstation cards."""
    ratios = {name: card.tensor_tflops / card.fp32_tflops for name, card in CARDS.items()}
    expected = {"T4": 8, "RTX 2080 Ti": 4, "A10G": 2, "A30": 16, "A100-40GB": 16, "A100-80GB": 16}
    expected |= {name: 14.8 for name in ("H100 PCIe", "H100 SXM", "H200")}
    for name, ratio in ratios.items():
        workstation = re.match(r"RTX A|RTX 6000|RTX PRO|A10$|L4", name)
        assert ratio == pytest.approx(expected.get(name, 4 if workstation else 2), rel=0.025), name


def test_contexts_are_those_measured_or_the_largest_of_the_generation() -> None:
    measured = {"T4": 141, "L4": 226, "RTX 3090": 256, "RTX 6000 Ada": 426, "A100-40GB": 501, "A100-80GB": 501}
    assert {name for name in CARDS if context_measured(find_card(name))} == set(measured)
    assumed = {"RTX 2080 Ti": 141, "RTX 3080 10GB": 256, "RTX 4090": 426, "A30": 501, "H100 SXM": 501, "RTX 5090": 501}
    for name, mib in (measured | assumed).items():
        assert context_bytes(find_card(name)) == mib * MIB, name


def test_context_of_a_card_that_the_table_lacks() -> None:
    assert context_bytes(Device("cuda", "RTX 4090 Laptop GPU", 2**34, bf16=True, capability=(8, 9))) == 426 * MIB
    assert context_bytes(find_card("24GiB")) == 501 * MIB
    assert not context_measured(find_card("24GiB"))


@pytest.mark.parametrize(
    ("card", "size"),
    [("T4", 17_039_360), ("RTX 4090", 17_039_360), ("24GiB", 17_039_360), ("H100 PCIe", 2**26), ("RTX 5090", 2**26)],
)
def test_workspaces_of_two_cublas_handles(card: str, size: int) -> None:
    assert workspace_bytes(find_card(card)) == size
    assert workspace_bytes(Device("cpu", "CPU", 2**34, bf16=False)) == 0
