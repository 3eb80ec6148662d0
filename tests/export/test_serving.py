"""A run's adapter and its merged model have the form in which vLLM and llama.cpp document that they load them.

vLLM: docs.vllm.ai, LoRA adapters, and `vllm.lora.peft_helper`; llama.cpp: convert_lora_to_gguf.py. Neither runs here:
the files are held against what these read.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from gguf import GGUFReader
from rich.console import Console
from safetensors import safe_open
from transformers import AutoConfig
from typer.testing import CliRunner

from finetune import exporting, pipeline
from finetune.cli.main import app
from finetune.config import load_config
from finetune.errors import RunDirError
from finetune.export import directory

QUICK = ("training.rehearsal=false", "training.sample_answers=0", "lora={r: 4, alpha: 8, target_modules: all-linear}")
PART = re.compile(r"base_model\.model\.(model\.layers\.\d+\.\w+\.\w+)\.lora_([AB])\.weight")


@pytest.fixture
def run(config_file: Path) -> Path:
    config = load_config(config_file, QUICK)
    pipeline.train(config, Console(file=io.StringIO()))
    return Path(config.output_dir)


def shapes(*files: Path) -> dict[str, list[int]]:
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return found


def test_the_adapter_is_what_vllm_and_convert_lora_to_gguf_read(run, tiny_model):
    fields = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (fields["peft_type"], fields["r"], fields["lora_alpha"], fields["bias"]) == ("LORA", 4, 8, "none")
    assert fields["target_modules"]
    # What vLLM refuses, and what would make a layer's rank another than `r`.
    for refused in ("modules_to_save", "use_dora", "rank_pattern", "alpha_pattern", "trainable_token_indices"):
        assert not fields.get(refused), refused
    assert fields["base_model_name_or_path"] == str(tiny_model)
    parts = shapes(run / "adapter" / "adapter_model.safetensors")
    base = shapes(tiny_model / "model.safetensors")
    modules = {PART.fullmatch(name)[1] for name in parts}
    for module in modules:
        rows, columns = base[f"{module}.weight"]
        assert parts[f"base_model.model.{module}.lora_A.weight"] == [4, columns]
        assert parts[f"base_model.model.{module}.lora_B.weight"] == [rows, 4]
    # vLLM looks at a name's last part only.
    last = {module.rsplit(".", 1)[1] for module in modules}
    assert last == {name.rsplit(".", 1)[-1] for name in fields["target_modules"]}


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_the_merged_directory_is_what_vllm_reads(run, shard, tiny_model, monkeypatch):
    monkeypatch.setattr(directory, "SHARD", shard)
    found = exporting.export(run, say=lambda line: None)
    folder = run / "merged"
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert fields["architectures"] == AutoConfig.from_pretrained(tiny_model).architectures == ["LlamaForCausalLM"]
    assert "quantization_config" not in fields
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    assert index.exists() == (len(files) > 1) == (shard == "100KB")
    if index.exists():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        assert set(listed.values()) == {file.name for file in files}
        assert set(listed) == set(shapes(*files))
    assert shapes(*files) == shapes(tiny_model / "model.safetensors")
    ends = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    assert (ends if isinstance(ends, list) else [ends]) == found["stop_tokens"]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (folder / "tokenizer.json").exists() and tokenizer["eos_token"] == "<|im_end|>"
    assert "<|im_start|>assistant" in (folder / "chat_template.jinja").read_text(encoding="utf-8")


def test_the_adapter_alone_for_llama_cpp(run):
    """tests/export/test_gguf_adapter.py has what llama.cpp says with it."""
    file = exporting.export_adapter(run)
    names = {tensor.name for tensor in GGUFReader(file).tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b"} <= names
    assert len(names) == len(shapes(run / "adapter" / "adapter_model.safetensors"))
    with pytest.raises(RunDirError, match=r"adapter\.gguf is there already"):
        exporting.export_adapter(run)
    file.unlink()
    assert CliRunner().invoke(app, ["export", str(run), "--gguf-adapter"]).stdout.strip() == str(file)
    assert not (run / "merged").exists() and not list(run.glob(".adapter*"))
