"""Every float32 tensor of a 16-bit step has a reason, in every family; a stray upcast has none, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_family
from repo import REPO
from transformers.activations import ACT2FN, SiLUActivation

from finetune.config import load_config
from finetune.preflight import find_card
from finetune.preflight.wide import ALL, STRAY, float32_tensors, listed
from finetune.spec import RunSpec, describe

SOME = 2**12
"""Bytes: the models are tiny."""


def described(tmp_path: Path, family: str, *overrides: str) -> RunSpec:
    write_family(family, tmp_path)
    keys = [f"model.name_or_path={tmp_path}", "model.weights=random", "data.max_length=256", *overrides]
    keys += ["lora.target_modules=all-linear"]
    return describe(load_config(REPO / "configs" / "qlora_r16.yaml", keys), find_card("24GiB"))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_has_a_reason(family: str, tmp_path: Path) -> None:
    found = float32_tensors(described(tmp_path, family), SOME)
    assert len(found) > 3
    assert not [one for one in found if one.why == STRAY], listed(found)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("training.autocast=none", "adapters compute in float32: lora.dtype, with autocast off"),
        ("training.loss_kernel=full_logits", "the loss is summed up in float32"),
        ("model.attention=eager", "the softmax of the scores"),
        ("model.lean_norms=false", "the model's own norm computes in float32"),
    ],
)
def test_settings_that_compute_in_float32_are_the_reason(override: str, why: str, tmp_path: Path) -> None:
    whys = {one.why for one in float32_tensors(described(tmp_path, "llama3", override), SOME)}
    assert why in whys and STRAY not in whys


def test_a_stray_upcast_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wasteful(SiLUActivation):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.float()).to(x.dtype)

    monkeypatch.setitem(ACT2FN, "silu", Wasteful)
    found = float32_tensors(described(tmp_path, "llama3", "model.lean_gates=false"), SOME)
    assert found[-1].why == STRAY and "aten._to_copy.default" in found[-1].operations
    assert f"{STRAY} (aten._to_copy.default, aten.silu.default, " in listed(found)


def test_where_all_is_float32_that_is_the_reason(tmp_path: Path) -> None:
    spec = described(tmp_path, "llama3", "model.fp32_unquantized=true")
    whys = {one.why for one in float32_tensors(spec, SOME)}
    assert ALL in whys and STRAY not in whys
