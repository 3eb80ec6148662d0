"""Attention by variable length: the same as over a mask, chosen where it can run, refused in words where not."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from families import write_family
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.config import RunConfig
from finetune.data.collate import Collator
from finetune.errors import ConfigError
from finetune.preflight import find_card
from finetune.spec import describe, varlen
from finetune.spec.device import Device
from finetune.spec.run_spec import resolve

LENGTHS = [[5, 9, 6], [18]]


def packs() -> list[dict]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for lengths in LENGTHS:
        ids = torch.randint(3, 64, (sum(lengths),), generator=draw).tolist()
        found.append({"input_ids": ids, "labels": ids, "seq_lengths": lengths})
    return found


def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The same weights, over a mask and by variable length, in float64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    masked = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").double()
    found = LlamaForCausalLM._from_config(copy.deepcopy(config), attn_implementation=varlen.NAME).double()
    found.load_state_dict(masked.state_dict())
    return masked, found


def scored(model: LlamaForCausalLM, **inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(**inputs, use_cache=False).logits
    logits.square().sum().backward()
    return logits, [parameter.grad for parameter in model.parameters()]


def test_packs_score_as_over_a_mask_and_so_do_their_gradients() -> None:
    masked, found = models()
    batch = Collator(2, by_length=True)(packs())
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    (wanted, gradients), (logits, ours) = (
        scored(masked, **inputs),
        scored(found, **inputs, row_lengths=batch["row_lengths"]),
    )
    assert torch.allclose(logits, wanted, rtol=0, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(ours, gradients, strict=True))
    without = found(**inputs, use_cache=False).logits
    assert not torch.allclose(without, wanted, atol=1e-3), "the lengths of rows change nothing: the test proves nothing"


def test_lengths_fill_the_pack() -> None:
    batch = Collator(2, by_length=True)(packs())
    assert batch["row_lengths"].tolist() == [[5, 9, 6], [18, 2, 0]]
    assert "row_lengths" not in Collator(2)(packs())


def test_padding_on_the_right_needs_no_mask() -> None:
    masked, found = models()
    rows = [{"input_ids": ids, "labels": ids} for ids in ([5, 6, 7, 8], [9, 10])]
    batch = Collator(2)(rows)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    kept = batch["attention_mask"].bool()
    assert torch.allclose(found(**inputs).logits[kept], masked(**inputs).logits[kept], rtol=0, atol=1e-12)


def test_on_a_card_rows_are_told_apart_by_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's kernel needs a card: here one in plain torch stands for it, with the arguments of torch 2.11 and of
    later versions, which must be asked to share heads."""
    from torch.nn.attention import varlen as torchs

    seen = []

    def older(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        seen.append((cu_seq_q.tolist(), cu_seq_q.dtype, max_q, window_size))
        ends = cu_seq_q.tolist()
        parts = []
        for start, end in pairwise(ends):
            row = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
            out = functional.scaled_dot_product_attention(*row, is_causal=True, scale=scale, enable_gqa=True)
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    def newer(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        assert enable_gqa == (q.shape[1] != k.shape[1])
        return older(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)

    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 20, 8), (2, 2, 20, 8), (2, 2, 20, 8))
    q, k, v = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    lengths = torch.tensor([[5, 9, 6], [18, 2, 0]])
    wanted = varlen.packed_attention(q, k, v, lengths, None)
    for kernel in (older, newer):
        monkeypatch.setattr(torchs, "varlen_attn", kernel)
        assert torch.allclose(varlen._on_card(q, k, v, lengths, None), wanted, rtol=0, atol=1e-12)
    assert seen[0] == ([0, 5, 14, 20, 38, 40, 40], torch.int32, 20, (-1, 0))


def config(folder: Path, *, packing: bool = True, attention: str = "auto", **sections: dict) -> RunConfig:
    return RunConfig.model_validate({
        "model": {"name_or_path": str(folder), "weights": "random", "attention": attention},
        "data": {"train": "x", "max_length": 64, "packing": packing},
        "output_dir": "x", **sections,
    })  # fmt: skip


CPU = Device("cpu", "a processor", 2**34, bf16=False)


def test_auto_takes_it_for_packs_where_it_can_run(tmp_path: Path) -> None:
    llama = write_family("llama3", tmp_path / "llama")
    chosen = {
        "cpu": resolve(config(llama), CPU).attention,
        "ampere": resolve(config(llama), find_card("RTX 3090")).attention,
        "turing": resolve(config(llama), find_card("T4")).attention,
        "unpacked": resolve(config(llama, packing=False), find_card("RTX 3090")).attention,
        "float32": resolve(config(llama, quantization={"compute_dtype": "float32"}), find_card("RTX 3090")).attention,
    }
    assert chosen == {"cpu": "varlen", "ampere": "varlen", "turing": "sdpa", "unpacked": "sdpa", "float32": "sdpa"}


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gpt_oss"])
def test_models_with_windows_or_other_scores_keep_their_masks(family: str, tmp_path: Path) -> None:
    assert resolve(config(write_family(family, tmp_path)), CPU).attention != "varlen"


@pytest.mark.parametrize(
    ("card", "options", "why"),
    [
        ("T4", {}, "the card's compute capability is 7.5, and FlashAttention needs 8.0"),
        ("RTX 3090", {"packing": False}, "rows are not packed"),
        ("RTX 3090", {"quantization": {"compute_dtype": "float32"}}, "attention computes in float32, and"),
        ("RTX 3090", {"head_dim": 512}, "heads have 512 numbers, and FlashAttention takes 256"),
        ("RTX 3090", {"sliding_window": 32}, "the model's attention has windows"),
    ],
)  # fmt: skip
def test_asked_for_where_it_cannot_run(card: str, options: dict, why: str, tmp_path: Path) -> None:
    folder = write_family("mistral", tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    changed = {key: options.pop(key) for key in ("head_dim", "sliding_window") if key in options}
    (folder / "config.json").write_text(json.dumps({**fields, "sliding_window": None, **changed}))
    with pytest.raises(ConfigError, match=f"model.attention: varlen, but {why}") as caught:
        describe(config(folder, attention="varlen", **options), find_card(card))
    assert caught.value.hint == "set model.attention=auto"
