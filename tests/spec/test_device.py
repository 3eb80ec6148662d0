"""The machine: what is found, what is assumed."""

from __future__ import annotations

import pytest
import torch

from finetune.config import HardwareConfig
from finetune.spec import Device, find_device
from finetune.spec import device as module


def test_a_processor_of_this_machine() -> None:
    device = find_device(HardwareConfig(device="cpu"))
    assert (device.kind, device.present) == ("cpu", True)
    assert 0 < device.memory_bytes <= 2**46
    assert find_device(HardwareConfig(device="cpu", memory="1GiB")).memory_bytes == 2**30


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_card_is_assumed_where_there_is_none() -> None:
    device = find_device(HardwareConfig(device="cuda"))
    assert (device.kind, device.present, device.memory_bytes) == ("cuda", False, 24 * 2**30)
    assert find_device(HardwareConfig(device="cuda", memory="16GiB")).memory_bytes == 16 * 2**30
    assert find_device(HardwareConfig(device="auto")).kind == "cpu"


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx2": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_tile": True}, torch.bfloat16)],
)
def test_a_processor_computes_what_it_multiplies_natively(monkeypatch, capabilities, dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert find_device(HardwareConfig(device="cpu")).compute_dtype is dtype


def test_a_container_s_limit_counts(monkeypatch) -> None:
    monkeypatch.setattr(module, "_container_limit", lambda: 3 * 2**30)
    assert find_device(HardwareConfig(device="cpu")).memory_bytes == 3 * 2**30


def test_dtypes_of_cards() -> None:
    assert Device("cuda", "new", 1, bf16=True).compute_dtype is torch.bfloat16
    assert Device("cuda", "old", 1, bf16=False).compute_dtype is torch.float16


@pytest.mark.parametrize(
    ("script", "used"),
    [("echo 1234", 1234 * 2**20), ("echo '[N/A]'", 0), ("exit 9", 0)],
)
def test_what_others_use_of_a_card_is_the_driver_s_word(monkeypatch, tmp_path, script: str, used: int) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert module.used_bytes() == used


@pytest.mark.parametrize(("visible", "asked"), [("", "0"), ("3", "3"), ("GPU-5c2a,1", "GPU-5c2a")])
def test_the_driver_is_asked_of_the_card_that_this_process_uses(
    monkeypatch, tmp_path, visible: str, asked: str
) -> None:
    """Trials of a sweep see one card each; the memory of another's says nothing."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\n[ "$1" = --id={asked} ] && echo 7\n', encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert module.used_bytes() == 7 * 2**20


def test_without_a_driver_nothing_is_in_use(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.used_bytes() == 0
