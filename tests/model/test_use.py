"""A trained adapter loaded again: the same numbers, the same answers, and nothing repacked on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file

from finetune.config import load_config
from finetune.errors import RunDirError
from finetune.model import answer, build_model, load_trained
from finetune.spec import describe, load_tokenizer

IDS = torch.arange(3, 40)[None]


def trained(config_file: Path, *overrides: str):
    """A built model whose adapter says something, and where it was saved."""
    spec = describe(load_config(config_file, overrides))
    model = build_model(spec)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    folder = config_file.parent / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    return spec, model.eval(), folder


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["quantization.type=none"],
        ["model.weights=random"],
        ["lora.use_dora=true", "lora.target_modules=all-linear"],
        ["lora.dtype=bfloat16"],
        ["model.dtype=bfloat16", "model.fp32_unquantized=true"],
    ],
    ids=lambda overrides: " ".join(overrides) or "default",
)
def test_a_loaded_adapter_computes_what_the_trained_one_did(config_file, overrides):
    spec, model, folder = trained(config_file, *overrides)
    torch.rand(3)
    loaded = load_trained(spec, folder)
    assert not loaded.training
    with torch.no_grad():
        expected, found = model(input_ids=IDS).logits, loaded(input_ids=IDS).logits
        with loaded.disable_adapter():
            untrained = loaded(input_ids=IDS).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(untrained, expected, atol=1e-2)


def test_using_a_model_repacks_no_weight_and_changes_no_adapter(config_file, tmp_path):
    spec, _, folder = trained(config_file)
    loaded = load_trained(spec, folder)
    answer(loaded, load_tokenizer(spec.source), "Say 2 words.", max_new_tokens=3)
    layers = [module for module in loaded.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    loaded.save_pretrained(tmp_path / "again")
    one, other = (load_file(where / "adapter_model.safetensors") for where in (folder, tmp_path / "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_answer_is_greedy_ends_at_its_length_and_leaves_the_mode(config_file):
    spec, model, _ = trained(config_file)
    tokenizer = load_tokenizer(spec.source)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say 2."}], tokenize=False, add_generation_prompt=True
    )
    model.train()
    state = torch.get_rng_state()
    said = [answer(model, tokenizer, prompt, max_new_tokens=5) for _ in range(2)]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert said[0] == said[1]
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    model.eval()
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert tokenizer.decode(ids[0, -5:], skip_special_tokens=True).strip() == said[0]


def test_an_adapter_that_cannot_be_loaded(config_file):
    spec, _, folder = trained(config_file)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()

    file.write_bytes(whole[:100])
    with pytest.raises(RunDirError) as caught:
        load_trained(spec, folder)
    assert caught.value.message.startswith(f"{folder}: the adapter cannot be loaded (")
    assert caught.value.hint == "its files are damaged, or of another model: train again"

    file.write_bytes(whole)
    tensors = load_file(file)
    save_file({name: torch.zeros(3, 3) for name in tensors}, file, metadata={"format": "pt"})
    with pytest.raises(RunDirError, match="the adapter cannot be loaded"):
        load_trained(spec, folder)

    file.unlink()
    with pytest.raises(RunDirError, match="holds no adapter"):
        load_trained(spec, folder)
