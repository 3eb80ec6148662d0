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
from transformers import AutoConfig, GenerationConfig

from finetune.errors import ModelError
from finetune.export.gguf_families import OTHERS, Family, add_sizes, family_of, llama3_frequencies
from finetune.export.gguf_tokenizer import add_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TYPES = {
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    torch.float16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}
"""Types of weights: of a matrix, and what the file says of itself."""


def write_gguf(folder: Path, file: Path, name: str) -> None:
    """Writes `file` from the model in `folder`, one tensor at a time.

    Raises ModelError for a family, tokenizer or position scaling that it does not know; OSError.
    """
    config = AutoConfig.from_pretrained(folder)
    family = family_of(config)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[family.architecture])
    try:
        kind, file_type = TYPES[config.dtype or torch.bfloat16]
        writer.add_name(name)
        writer.add_file_type(file_type)
        add_sizes(writer, config)
        add_tokenizer(writer, folder, config.vocab_size, _stops(folder))
        tensors = _Tensors(folder, config, family, kind)
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


def _stops(folder: Path) -> list[int]:
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    return stops if isinstance(stops, list) else [] if stops is None else [stops]


class _Tensors:
    """The tensors of a directory under llama.cpp's names, in one order."""

    def __init__(self, folder: Path, config: PretrainedConfig, family: Family, kind: gguf.GGMLQuantizationType) -> None:
        self.config, self.family, self.kind = config, family, kind
        names = gguf.get_tensor_name_map(family.architecture, config.num_hidden_layers)
        self.places: list[tuple[str, str, Path]] = []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                for ours in sorted(tensors.keys()):
                    theirs = names.get_name(ours, try_suffixes=(".weight", ".bias"))
                    if theirs is None:
                        raise ModelError(f"{folder}: llama.cpp has no place for the tensor {ours}", OTHERS)
                    self.places.append((ours, theirs, path))
        self.frequencies = llama3_frequencies(config)

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
            array = laid_out(ours, tensor.float(), self.config, self.family).contiguous().numpy()
            yield array if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(array, kind)

    def _kind_of(self, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
        """llama.cpp adds and scales by vectors in float32."""
        return self.kind if len(shape) > 1 else gguf.GGMLQuantizationType.F32


def laid_out(name: str, tensor: torch.Tensor, config: PretrainedConfig, family: Family) -> torch.Tensor:
    """A tensor, under transformers' name, as llama.cpp has it: of Llama's queries and keys it rotates neighbours,
    transformers the halves of a head."""
    if family.norms_from_zero and name.endswith("norm.weight"):
        return tensor + 1
    count = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if not family.rotates_neighbours or count is None:
        return tensor
    halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _stored(kind: gguf.GGMLQuantizationType) -> Any:
    """numpy's type of that size: it has no bfloat16."""
    return {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(kind, np.uint16)
