"""Every number on docs/fundamentals/fine-tuning-7b.md, computed again."""

from __future__ import annotations

import importlib

import pytest
from checked_page import Page
from repo import REPO

from finetune.config import load_config
from finetune.preflight import find_card
from finetune.spec import describe
from finetune.study import markdown_table

GIB = 2**30


@pytest.fixture(scope="module")
def script():
    """scripts/plan_page.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPO / "scripts")
        yield importlib.import_module("plan_page")


def trainable(model: str, targets: str = "[q_proj, k_proj, v_proj, o_proj]") -> int:
    keys = [f"model.name_or_path={model}", f"lora.target_modules={targets}"]
    return describe(load_config(REPO / "configs" / "qlora_r16.yaml", keys), find_card("24GiB")).parameters.trainable


def test_every_number(script) -> None:
    page = Page(REPO / "docs" / "fundamentals" / "fine-tuning-7b.md")
    found = script.predictions()
    page.says(markdown_table(script.table(found)))
    page.says(script.plan_block())
    spec = describe(load_config(script.PLAN, []), find_card(script.CARD))
    _setting(page, spec)
    _methods(page, spec, found)
    _choices(page, found)
    page.says("of 100,352 words" if spec.model_config.vocab_size == 100_352 else "")
    assert page.unchecked() == []


def _setting(page: Page, spec) -> None:
    model, training = spec.model_config, spec.config.training
    assert model.num_attention_heads == model.num_key_value_heads, "the projections are square"
    page.says(f"decoder of {model.num_hidden_layers} layers with a residual stream of {model.hidden_size:,} values")
    page.says(
        f"packs of {spec.config.data.max_length:,} tokens, {training.micro_batch_size} at once, "
        f"{training.effective_batch_size} to an update"
    )
    page.says(f"an {spec.device.name}, of whose memory")
    page.says(f"the driver leaves {spec.device.memory_bytes / GIB:.2f} GiB")
    page.says("on a card of 24 GB"), page.says("any card of 24 GB")
    page.says(f"at a learning rate of {training.learning_rate:.0e}".replace("e-04", "e-4"))
    page.says(f"The learning rate of {training.learning_rate:.0e}".replace("e-04", "e-4"))
    page.says(f"over the first {training.warmup_ratio * 100:.0f} % of the updates")
    page.says("a test holds that 1 × 16, 4 × 4 and 16 × 1 give the same adapter")


def _methods(page: Page, spec, found) -> None:
    whole, counts = found["the plan"][0], spec.parameters
    base = counts.total - counts.trainable
    page.says(f"For the {base:,} weights of this model that is {16 * base / GIB:.1f} GiB")
    page.says(f"in 16 bits: {found['base in 16 bits (LoRA)'][0].allocated / GIB:.2f} GiB at the peak")
    page.says(f"stores the frozen base in 4 bits: {whole.allocated / GIB:.2f} GiB. The weights are expanded to 16 bits")
    page.says("A block of 64 weights")
    page.says("one of 16 levels")
    page.says("stores the scales in 8 bits, with a 32-bit scale for each 256 of them")
    page.says("layer and the norms stay in 16 bits")
    saved = (4 / 64 - 1 / 64 - 4 / (64 * 256)) * counts.quantized
    assert saved == pytest.approx(found["one quantisation"][0].allocated - whole.allocated, rel=2e-3)
    page.says(f"Over the {counts.quantized:,} weights that are quantised it saves {saved / GIB:.2f} GiB")
    every = found["no checkpointing"][0]
    page.says(f"Kept for all layers that is {every.allocated / GIB:.2f} GiB")
    page.says(
        f"values of 2 bytes, {whole.breakdown['checkpoints'] / GIB:.2f} GiB for {spec.model_config.num_hidden_layers} "
        "layers"
    )
    page.says(f"{whole.flops / every.flops - 1:.0%}".replace("%", " %") + " more operations in all here")
    page.says("8 bits of precision")
    page.says("float16 has 11 bits and overflows at 65,504")
    page.says(f"That costs {counts.trainable * 2 / GIB:.2f} GiB")


def _choices(page: Page, found) -> None:
    whole = found["the plan"][0].allocated
    more = {name: f"{(prediction.allocated - whole) / GIB:.2f} GiB" for name, (prediction, _) in found.items()}
    page.says(f"takes {more['unquantised parts in float32']} more")
    page.says("a projection of 4,096 to 4,096 gets")
    page.says(
        f"four projections and 32 layers, $2 \\cdot 16 \\cdot 4096 \\cdot 4 \\cdot 32$ = {2 * 16 * 4096 * 4 * 32:,}"
    )
    assert found["the plan"][1] == 2 * 16 * 4096 * 4 * 32
    page.says(f"it is {trainable('meta-llama/Llama-3.1-8B-Instruct'):,}, and with every linear layer")
    page.says(f"of a Llama-2-7B {16 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11_008)):,}")
    page.says(f"rank 64 costs {more['rank 64']}, all linear layers {more['all linear layers']}")
    page.says("Begin with attention at rank 16")
    page.says(f"8 packs at once take {more['eight rows at once']} more than 4")
    page.says(f"sequences of 4,096 tokens {more['sequences of 4,096']} more")
    page.says(f"would take {more['all logits at once']} more")
    page.says(f"takes {more['eager attention']} more than the fused kernel")
    page.says(f"Its state in 8 bits saves {more['AdamW with 32-bit state']} here")
