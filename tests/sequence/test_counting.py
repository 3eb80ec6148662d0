"""Counters: torch's own is silent about three kernels; with our rules nothing that multiplies is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_family
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from finetune.sequence import counting
from finetune.sequence.costs import pairs
from finetune.sequence.counting import SilentKernel, count_flops, torch_count
from finetune.sequence.decoder import half_from, row_cost, windows
from finetune.sequence.sequence_lab import counters

SILENT = {"nn.LSTM", "scaled_dot_product_attention", "TransformerEncoderLayer, eval"}


def test_torchs_counter_is_silent_where_we_say_and_ours_is_exact() -> None:
    """Fails where torch learns a rule: then ours can go."""
    found = counters()
    assert {name for name, one in found.items() if one["torch"] == 0} == SILENT
    for name, one in found.items():
        assert one["with_rules"] == one["closed_form"], name
        assert one["torch"] in (0, one["closed_form"]), name


def test_a_backward_pass_is_two_forwards_and_a_half_with_attention() -> None:
    lstm, x_NBD = nn.LSTM(32, 32), torch.randn(40, 1, 32, requires_grad=True)
    assert count_flops(lambda: lstm(x_NBD)[0].sum().backward()) == 3 * count_flops(lambda: lstm(x_NBD))
    q = torch.randn(1, 2, 64, 16, requires_grad=True)

    def attend() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    assert count_flops(attend) == 2 * 2 * 2 * 16 * pairs(64, causal=True)
    assert count_flops(lambda: attend().sum().backward()) == 3.5 * count_flops(attend)


def test_a_kernel_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_RULES", {})
    lstm = nn.LSTM(8, 8)
    with pytest.raises(SilentKernel, match=r"mkldnn_rnn_layer: makes products, and no rule counts them"):
        count_flops(lambda: lstm(torch.randn(4, 1, 8)))
    assert torch_count(lambda: lstm(torch.randn(4, 1, 8))) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_of_each_family_costs_what_its_model_multiplies(
    family: str, attention: str, tmp_path: Path
) -> None:  # fmt: skip
    config, tokens = tiny(family, tmp_path), 200
    if attention == "sdpa" and not AutoModelForCausalLM._model_mapping[type(config)]._supports_sdpa:
        pytest.skip(f"{family} has no sdpa")
    config._experts_implementation = "eager"  # the grouped product has no rule
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()

    def looked_at(window: int | None) -> int:
        masked = window is not None and window < tokens
        return pairs(tokens, causal=attention == "sdpa" and not masked)

    ids = torch.randint(0, 500, (1, tokens))
    with torch.no_grad():
        counted = count_flops(lambda: model(ids, use_cache=False))
    assert counted == pytest.approx(row_cost(config, tokens, looked_at).flops, rel=2e-3)


def test_attention_is_half_from_where_scores_equal_the_rest(tmp_path: Path) -> None:
    config = tiny("llama2", tmp_path / "llama")
    tokens = half_from(config)
    shares = [row_cost(config, n, lambda _, n=n: pairs(n, causal=True)).share for n in (tokens - 1, tokens)]
    assert shares[0] < 0.5 <= shares[1]
    assert half_from(tiny("mistral", tmp_path / "mistral")) is None, "128 tokens are never half of it"


def test_gemma_3_has_five_windows_to_each_layer_without(tmp_path: Path) -> None:
    assert list(windows(tiny("gemma3_text", tmp_path))) == [128] * 5 + [None]


def tiny(family: str, folder: Path) -> PretrainedConfig:
    """The configuration of a family."""
    return AutoConfig.from_pretrained(write_family(family, folder))
