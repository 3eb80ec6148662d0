"""A merged directory as one GGUF file for llama.cpp, in the type of its weights.

Names and layouts are those of the format (github.com/ggml-org/ggml/blob/master/docs/gguf.md) and of the `gguf` package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig

from finetune.errors import ModelError
from finetune.export.gguf_tokenizer import add_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""Families of transformers and what llama.cpp calls them."""

TYPES = {
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    torch.float16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}
"""Types of weights: of a matrix, and what the file says of itself."""

OTHERS = "llama.cpp's own convert_hf_to_gguf.py knows more families: give it the merged directory"


def write_gguf(folder: Path, file: Path, name: str) -> None:
    """Writes `file` from the model in `folder`, one tensor at a time.

    Raises ModelError for a family, tokenizer or position scaling that it does not know; OSError.
    """
    config = AutoConfig.from_pretrained(folder)
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{folder}: no GGUF is written of model_type {config.model_type!r}, only of {known}", OTHERS)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        dtype = config.dtype or torch.bfloat16
        _add_sizes(writer, config, name, TYPES[dtype][1])
        add_tokenizer(writer, folder, config.vocab_size)
        tensors = _Tensors(folder, config, architecture, TYPES[dtype][0])
        for title, shape, kind in tensors.listed():
            size = math.prod(shape) * np.dtype(_stored(kind)).itemsize
            writer.add_tensor_info(title, shape, np.dtype(_stored(kind)), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in tensors.arrays():
            writer.write_tensor_data(array)
    finally:
        writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: PretrainedConfig, name: str, file_type: gguf.LlamaFileType) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type", "default") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope.get("rope_type", "default") not in ("default", "llama3"):
        raise ModelError(f"no GGUF is written of rope_type {rope['rope_type']!r}", OTHERS)


class _Tensors:
    """The tensors of a directory under llama.cpp's names, in one order."""

    def __init__(
        self, folder: Path, config: PretrainedConfig, architecture: gguf.MODEL_ARCH, kind: gguf.GGMLQuantizationType
    ) -> None:
        self.config, self.kind, self.permutes = config, kind, architecture == gguf.MODEL_ARCH.LLAMA
        names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
        self.places: list[tuple[str, str, Path]] = []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                for ours in sorted(tensors.keys()):
                    theirs = names.get_name(ours, try_suffixes=(".weight", ".bias"))
                    if theirs is None:
                        raise ModelError(f"{folder}: llama.cpp has no place for the tensor {ours}", OTHERS)
                    self.places.append((ours, theirs, path))
        self.frequencies = _llama3_frequencies(config)

    def listed(self) -> Iterator[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]:
        """Name, shape and type of each."""
        if self.frequencies is not None:
            yield "rope_freqs.weight", self.frequencies.shape, gguf.GGMLQuantizationType.F32
        for ours, theirs, path in self.places:
            with safe_open(path, framework="pt") as tensors:
                shape = tuple(tensors.get_slice(ours).get_shape())
            yield theirs, shape, self._kind_of(shape)

    def arrays(self) -> Iterator[np.ndarray]:
        """The numbers of each."""
        if self.frequencies is not None:
            yield self.frequencies
        for ours, _, path in self.places:
            with safe_open(path, framework="pt") as tensors:
                tensor = tensors.get_tensor(ours)
            kind = self._kind_of(tuple(tensor.shape))
            array = self._permuted(ours, tensor.float()).contiguous().numpy()
            yield array if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(array, kind)

    def _kind_of(self, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
        """llama.cpp adds and scales by vectors in float32."""
        return self.kind if len(shape) > 1 else gguf.GGMLQuantizationType.F32

    def _permuted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Of Llama's queries and keys llama.cpp rotates neighbours, transformers the halves of a head."""
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
        count = heads.get(name.split(".")[-2])
        if not self.permutes or count is None:
            return tensor
        halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)


def _stored(kind: gguf.GGMLQuantizationType) -> Any:
    """numpy's type of that size: it has no bfloat16."""
    return {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(kind, np.uint16)


def _llama3_frequencies(config: PretrainedConfig) -> np.ndarray | None:
    """Factors by which Llama 3.1 divides the rotary frequencies (transformers' `_compute_llama3_parameters`)."""
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    turns = rope["original_max_position_embeddings"] / waves
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)
