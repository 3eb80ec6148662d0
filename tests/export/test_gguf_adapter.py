"""llama.cpp with a base's GGUF file and an adapter's says what transformers says with the adapter on the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import spoken
import torch
from families import FAMILIES
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model

from finetune.errors import ModelError
from finetune.export import gguf_adapter, llama_cpp, write_gguf_adapter
from finetune.model import answer


def adapted(shape: str, folder: Path, **options):
    """A base and an adapter on it that changes what is said, in `folder`; the tokenizer and what each says."""
    tokenizer = spoken.fast(spoken.byte_level())
    base = spoken.model(FAMILIES[shape], tokenizer)
    plain, lengths = spoken.said(folder, base, tokenizer)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder / "adapter")
    texts = [answer(model, tokenizer, prompt, max_new_tokens=spoken.LONG) for prompt in spoken.PROMPTS]
    assert texts != plain
    return base.config, (texts, lengths), (plain, lengths)


@pytest.mark.skipif(not llama_cpp.installed(), reason="neither xllamacpp nor llama-cpp-python is installed")
@pytest.mark.parametrize("package", llama_cpp.installed())
@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize("shape", ["llama3", "qwen2", "gemma2", "phi3"])
def test_an_adapter_beside_its_base(shape, rank_stabilised, package, tmp_path: Path):
    config, expected, plain = adapted(shape, tmp_path, use_rslora=rank_stabilised)
    file = tmp_path / "adapter.gguf"
    write_gguf_adapter(tmp_path / "adapter", config, file)
    assert spoken.llama_cpp_said(package, tmp_path) == plain
    assert spoken.llama_cpp_said(package, tmp_path, adapter=file) == expected


@pytest.mark.skipif(not llama_cpp.installed(), reason="neither xllamacpp nor llama-cpp-python is installed")
def test_without_llama_s_order_of_rows_the_text_differs(tmp_path: Path, monkeypatch):
    config, expected, _ = adapted("llama3", tmp_path)
    monkeypatch.setattr(gguf_adapter, "laid_out", lambda name, tensor, *given: tensor)
    write_gguf_adapter(tmp_path / "adapter", config, tmp_path / "adapter.gguf")
    found = spoken.llama_cpp_said(next(iter(llama_cpp.installed())), tmp_path, adapter=tmp_path / "adapter.gguf")
    assert found[0] != expected[0]


def test_the_file_s_fields(tmp_path: Path):
    config, *_ = adapted("llama3", tmp_path)
    write_gguf_adapter(tmp_path / "adapter", config, tmp_path / "adapter.gguf")
    fields = GGUFReader(tmp_path / "adapter.gguf").fields
    found = {name: fields[name].contents() for name in ("general.type", "adapter.type", "adapter.lora.alpha")}
    assert found == {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}


def test_dora_is_refused(tmp_path: Path):
    config, *_ = adapted("llama3", tmp_path, use_dora=True)
    with pytest.raises(ModelError, match=r"llama\.cpp has no DoRA") as caught:
        write_gguf_adapter(tmp_path / "adapter", config, tmp_path / "adapter.gguf")
    assert caught.value.hint.startswith("export with --gguf instead")
