"""Families of models that llama.cpp knows: how it lays out their tensors, and what a file says of their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np

from finetune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Family(NamedTuple):
    """llama.cpp's name; whether it rotates neighbours of a head; whether norms are stored less one; of how many layers
    the last sees every token and the others a window (0: all see all)."""

    architecture: gguf.MODEL_ARCH
    rotates_neighbours: bool = False
    norms_from_zero: bool = False
    period: int = 0


FAMILIES = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, rotates_neighbours=True),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, rotates_neighbours=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3),
    "gemma2": Family(gguf.MODEL_ARCH.GEMMA2, norms_from_zero=True, period=2),
    "gemma3_text": Family(gguf.MODEL_ARCH.GEMMA3, norms_from_zero=True, period=6),
    "olmo2": Family(gguf.MODEL_ARCH.OLMO2),
    "phi3": Family(gguf.MODEL_ARCH.PHI3),
}
"""By transformers' model_type. Each is proven on llama.cpp by tests/export/test_gguf_families.py."""

OTHERS = "llama.cpp's own convert_hf_to_gguf.py knows more: give it the merged directory"


def family_of(config: PretrainedConfig) -> Family:
    """Raises ModelError for one that is not known, or that llama.cpp would compute in another way."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelError(f"no GGUF is written of model_type {config.model_type!r}, only of {known}", OTHERS)
    if family.period:
        count = config.num_hidden_layers
        usual = ["full_attention" if (i + 1) % family.period == 0 else "sliding_attention" for i in range(count)]
        if list(config.layer_types) != usual:
            raise ModelError(f"no GGUF is written of these layer_types: {config.layer_types}", OTHERS)
    # llama.cpp reads the two largest models' scale off the number of their layers.
    usual = {"gemma2": {46}, "gemma3_text": {62}}.get(config.model_type, set())
    width = config.hidden_size // config.num_attention_heads if config.num_hidden_layers in usual else _width(config)
    if getattr(config, "query_pre_attn_scalar", width) != width:
        raise ModelError(f"no GGUF is written of query_pre_attn_scalar {config.query_pre_attn_scalar}", OTHERS)
    return family


def add_sizes(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    """Adds sizes, constants and positions. Raises ModelError for a scaling of positions that it does not know."""
    width, rope = _width(config), _rope(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type", "default") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope.get("rope_type", "default") not in ("default", "llama3"):
        raise ModelError(f"no GGUF is written of rope_type {rope['rope_type']!r}", OTHERS)
    if FAMILIES[config.model_type].period:
        _add_windows(writer, config)


def _add_windows(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    """Gemma's window, the positions within it, and the caps of scores."""
    writer.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(float(rope["sliding_attention"]["rope_theta"]))
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def llama3_frequencies(config: PretrainedConfig) -> np.ndarray | None:
    """Factors by which Llama 3.1 divides the rotary frequencies (transformers' `_compute_llama3_parameters`), one for
    each pair of a head's dimensions; None for other models."""
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    width = _width(config)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    turns = rope["original_max_position_embeddings"] / waves
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def _width(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    """Of the layers that see every token, where others have their own."""
    return config.rope_parameters.get("full_attention", config.rope_parameters)
