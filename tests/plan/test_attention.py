"""What `finetune plan` says of attention: its share, and the kernels that would save some of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import write_family
from repo import REPO
from test_plan import shown

from finetune.config import load_config
from finetune.pipeline import plan_ahead
from finetune.plan.attention import AttentionShare, attention_share
from finetune.sequence import mixing, pairs

CONFIG = REPO / "configs" / "qlora_r16.yaml"
SMALL = {"hidden_size": 64, "max_position_embeddings": 65_536}


def planned(folder: Path, *keys: str, gpu: str = "RTX 4090", family: str = "llama2"):
    model = write_family(family, folder / family, **SMALL)
    return plan_ahead(load_config(CONFIG, [f"model.name_or_path={model}", *keys]), gpu, examples=1000)


def share(folder: Path, *keys: str, family: str = "llama2", lengths: list[int] | None = None) -> AttentionShare:
    return attention_share(planned(folder, "training.micro_batch_size=1", *keys, family=family).verdict, lengths)


def mixed(number_of_pairs: int, layers: int = 2, heads: int = 4, size: int = 16) -> int:
    return layers * sum(mixing(number_of_pairs, heads, size).values())


def test_the_kernel_says_which_pairs_are_computed(tmp_path: Path) -> None:
    plain = ["data.packing=false", "data.max_length=512"]
    assert share(tmp_path, *plain, "model.attention=eager").now.mixing == mixed(512 * 512)
    assert share(tmp_path, *plain, "model.attention=sdpa").now.mixing == mixed(pairs(512, causal=True))
    padded = share(tmp_path, *plain, "model.attention=sdpa", "training.micro_batch_size=2")
    assert padded.now.mixing == mixed(512 * 512)
    packed = ["data.packing=true", "data.max_length=512"]
    assert share(tmp_path, *packed, "model.attention=sdpa").now.mixing == mixed(512 * 512)
    rows = [100, 156, 200, 56]
    found = share(tmp_path, *packed, "model.attention=flash_attention_2", lengths=[*rows, *rows])
    assert found.now.mixing == mixed(sum(pairs(row, causal=True) for row in rows)) == found.least.mixing


def test_a_window_is_computed_whole_by_sdpa_and_left_out_by_flash(tmp_path: Path) -> None:
    keys = ["data.packing=false", "data.max_length=512"]
    masked = share(tmp_path, *keys, "model.attention=sdpa", family="mistral")
    flash = share(tmp_path, *keys, "model.attention=flash_attention_2", family="mistral")
    assert masked.now.mixing == mixed(512 * 512)
    assert flash.now.mixing == masked.least.mixing == mixed(pairs(512, causal=True, window=128))
    within = share(tmp_path, "data.packing=false", "data.max_length=128", "model.attention=sdpa", family="mistral")
    assert within.now.mixing == mixed(pairs(128, causal=True))


@pytest.mark.parametrize("rows", [1, 2])
def test_the_trace_counts_what_the_share_says(tmp_path: Path, rows: int) -> None:
    """Twice the length adds twice the products with weights, and the pairs' own difference: two traces tell them."""
    keys = [
        "data.packing=false",
        "training.gradient_checkpointing=false",
        "lora.r=1",
        "quantization.type=none",
        f"training.micro_batch_size={rows}",
    ]
    steps = {n: planned(tmp_path, *keys, f"data.max_length={n}") for n in (1024, 2048)}
    traced = {n: plan.verdict.prediction.flops / plan.verdict.batch.rows for n, plan in steps.items()}
    mixing_twice = (traced[2048] - 2 * traced[1024]) / 3.5  # a backward pass is five products for the forward's two
    expected = steps[2048].attention.now.mixing - 2 * steps[1024].attention.now.mixing
    assert mixing_twice == pytest.approx(expected, rel=0.01)


def test_eager_is_told_what_sdpa_saves(tmp_path: Path) -> None:
    plan = planned(tmp_path, "model.attention=eager", "data.max_length=1024", "data.packing=false")
    (doubt,) = (doubt for doubt in plan.doubts if doubt.change == "model.attention=sdpa")
    assert "eager attention writes every score down, masked or not: sdpa takes" in doubt.why
    after = planned(tmp_path, "model.attention=sdpa", "data.max_length=1024", "data.packing=false")
    saved = plan.verdict.prediction.process - after.verdict.prediction.process
    assert f"{saved / 2**30:.2f} GiB less" in doubt.why and saved > 2**25
    assert not any("eager" in doubt.why for doubt in after.doubts)


def test_packs_under_a_mask_are_told_of_variable_length(tmp_path: Path) -> None:
    keys = ["model.attention=sdpa", "data.packing=true", "data.max_length=4096"]
    (doubt,) = (doubt for doubt in planned(tmp_path, *keys).doubts if "flash" in doubt.change)
    assert doubt.change == "model.attention=flash_attention_2"
    assert "rows of a pack are kept apart by a mask, and sdpa computes what is masked: 2.0 times" in doubt.why
    turing = planned(tmp_path, *keys, gpu="T4")
    assert not any("flash" in doubt.change for doubt in turing.doubts), "a T4 cannot run it"
    keys[1:2] = ["data.packing=false", "training.micro_batch_size=1"]
    windows = planned(tmp_path, *keys, family="mistral")
    assert any("windows are a mask, and sdpa computes what is masked" in doubt.why for doubt in windows.doubts)


def test_where_attention_dominates_the_plan_says_so(tmp_path: Path) -> None:
    long, short = (planned(tmp_path, "data.packing=false", f"data.max_length={n}") for n in (16_384, 256))
    assert long.attention.dominates and not short.attention.dominates
    (doubt,) = (doubt for doubt in long.doubts if "grow with the square of the length" in doubt.why)
    assert f"scores and values are {long.attention.now.share:.0%} of a forward pass" in doubt.why
    assert "half of it from" in shown(short) and f"{short.attention.now.share:.1%} of a forward pass" in shown(short)
    assert "its windows are narrow" in shown(planned(tmp_path, "data.packing=false", family="mistral"))
    found = long.to_json()["attention"]
    assert found["kernel"] == "sdpa" and found["share"] == long.attention.now.share
    assert found["half_from_tokens"] == short.to_json()["attention"]["half_from_tokens"] < 16_384
