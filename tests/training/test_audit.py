"""The adapter reaches the optimiser in the type it was described in, and a trainer that differs is stopped."""

from __future__ import annotations

import contextlib

import pytest
import torch
from assembly import assemble

from finetune.data import load_data
from finetune.errors import AuditError
from finetune.model import build_model
from finetune.training import audit, build_trainer, trainer


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("dora", ["false", "true"])
def test_making_a_trainer_leaves_every_bit_of_the_adapter(config_file, tmp_path, dtype, expected, dora):
    """float32 is what TRL would cast to bfloat16; of bfloat16 and DoRA it would cast a part."""
    assembly = assemble(config_file, f"lora.dtype={dtype}", f"lora.use_dora={dora}")
    before = assembly.adapter()
    build_trainer(assembly.spec, assembly.model, assembly.data, tmp_path / "checkpoints")
    after = assembly.adapter()
    assert {tensor.dtype for tensor in after.values()} == {expected}
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in before)
    audit(assembly.spec, assembly.trainer)


def test_an_adapter_that_trl_has_cast_is_seen(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "adapter_untouched", lambda model: contextlib.nullcontext())
    assembly = assemble(config_file)
    with pytest.raises(AuditError, match=r"lora_A\.default\.weight: described as trained torch\.float32 .*bfloat16"):
        audit(assembly.spec, assembly.trainer)


def test_a_good_build_passes_with_every_kind_of_adapter_and_base(config_file):
    for overrides in (
        ["lora.target_modules=all-linear", "lora.use_rslora=true"],
        ["quantization.type=none", "model.dtype=bfloat16", "model.fp32_unquantized=true"],
        ["quantization.double_quant=false", "model.weights=random", "training.lr_scaling=sqrt",
         "training.reference_batch_size=16"],
        ["model.attention=eager", "training.gradient_checkpointing=false", "data.eval=null"],
    ):  # fmt: skip
        assembly = assemble(config_file, *overrides)
        audit(assembly.spec, assembly.trainer)


def cast_one(assembly):
    next(iter(assembly.trained().values())).data = next(iter(assembly.trained().values())).data.bfloat16()


def freeze_one(assembly):
    list(assembly.trained().values())[1].requires_grad_(False)


def train_the_head(assembly):
    assembly.model.get_output_embeddings().weight.requires_grad_(True)


def drop_a_module(assembly):
    layer = assembly.model.base_model.model.model.layers[1].self_attn
    layer.q_proj = layer.q_proj.base_layer


def widen_one(assembly):
    lora = assembly.model.base_model.model.model.layers[0].self_attn.v_proj.lora_A["default"]
    lora.weight = torch.nn.Parameter(torch.zeros(8, 64))


def change_rate(assembly):
    assembly.trainer.args.learning_rate = 1e-4


def change_optimiser(assembly):
    assembly.trainer.args.optim = "sgd"


def change_attention(assembly):
    assembly.model.config._attn_implementation = "eager"


def scale_the_logits(assembly):
    assembly.model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: logits * 1.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scale_the_logits, "logits: described as what the output layer makes of hidden states, built as others"),
        (cast_one, "layers.0.self_attn.q_proj.lora_A.default.weight: described as trained torch.float32 [4, 64], "
                   "built as trained torch.bfloat16 [4, 64]"),
        (freeze_one, "q_proj.lora_B.default.weight: described as trained torch.float32 [64, 4], "
                     "built as frozen torch.float32 [64, 4]"),
        (train_the_head, "embed_tokens.weight: described as frozen torch.float32 [512, 64], built as trained"),
        (drop_a_module, "layers.1.self_attn.q_proj.base_layer.weight: described as frozen torch.uint8 [2048, 1], "
                        "built as absent"),
        (widen_one, "v_proj.lora_A.default.weight: described as trained torch.float32 [4, 64], "
                    "built as trained torch.float32 [8, 64]"),
        (change_rate, "training argument learning_rate: described as 0.01, built as 0.0001"),
        (change_optimiser, "training argument optim: described as 'adamw_torch', built as 'sgd'"),
        (change_attention, "attention kernel: described as 'sdpa', built as 'eager'"),
    ],
)  # fmt: skip
def test_the_first_difference_stops_the_run_in_words(config_file, change, words):
    assembly = assemble(config_file)
    audit(assembly.spec, assembly.trainer)
    change(assembly)
    with pytest.raises(AuditError) as caught:
        audit(assembly.spec, assembly.trainer)
    assert words in caught.value.message
    assert "report it" in caught.value.hint
    assert caught.value.exit_code == 1


def test_an_adapter_on_the_wrong_base_is_seen(config_file):
    """The trainer of one description against another: the first tensor that differs is named."""
    described = assemble(config_file, "lora.r=8").spec
    other = assemble(config_file)
    trainer_of_other = build_trainer(
        other.spec, build_model(other.spec), load_data(other.spec), config_file.parent / "c"
    )
    with pytest.raises(AuditError, match=r"described as trained torch\.float32 \[8, 64\], built as .* \[4, 64\]"):
        audit(described, trainer_of_other)
