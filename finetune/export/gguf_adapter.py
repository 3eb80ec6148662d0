"""An adapter as a GGUF file of its own, which llama.cpp loads beside a base model's (`--lora`)."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
from safetensors import safe_open
from transformers import PretrainedConfig

from finetune.errors import ModelError
from finetune.export.gguf_families import family_of
from finetune.export.gguf_file import laid_out

MERGE = "export with --gguf instead: the adapter is merged into the model there"


def write_gguf_adapter(adapter: Path, config: PretrainedConfig, file: Path) -> None:
    """Writes `file` from PEFT's directory `adapter` of a model of this configuration, in float32.

    Raises ModelError for a family that has no GGUF file, and for DoRA, which llama.cpp cannot add; OSError.
    """
    lora = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if lora.get("use_dora"):
        raise ModelError(f"{adapter}: llama.cpp has no DoRA", MERGE)
    family = family_of(config)
    names = gguf.get_tensor_name_map(family.architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[family.architecture])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        # llama.cpp divides alpha by the rank; rank-stabilised LoRA by the root of it.
        alpha = lora["lora_alpha"] * (lora["r"] ** 0.5 if lora.get("use_rslora") else 1)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                ours, part = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
                theirs = names.get_name(f"{ours}.weight", try_suffixes=(".weight",))
                if theirs is None or part not in "AB":
                    raise ModelError(f"{adapter}: llama.cpp has no place for the tensor {name}", MERGE)
                tensor = tensors.get_tensor(name).float()
                if part == "B":  # its rows are the weight's
                    tensor = laid_out(f"{ours}.weight", tensor, config, family)
                writer.add_tensor(f"{theirs}.lora_{part.lower()}", tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
