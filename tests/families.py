"""Tiny but true configurations of the decoder families that people fine-tune on 24 GB.

Each has its family's own traits (biases, norms of queries and keys, fused projections, sliding windows, capped
scores, tied embeddings, experts) in the fields that the published config.json of the family has, and random weights
of a few hundred kilobytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
_LLAMA3_ROPE = {
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
}
_GEMMA = {
    "num_key_value_heads": 2,
    "head_dim": 32,  # wider than hidden_size / heads, as the family's is
    "query_pre_attn_scalar": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 128,
    "tie_word_embeddings": True,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama2": _SIZES | {"model_type": "llama", "num_key_value_heads": 4, "rope_theta": 10_000.0},
    "llama3": _SIZES | _LLAMA3_ROPE | {"model_type": "llama"},
    "llama3_tied": _SIZES | _LLAMA3_ROPE | {"model_type": "llama", "head_dim": 16, "tie_word_embeddings": True},
    "mistral": _SIZES | {"model_type": "mistral", "sliding_window": 128},
    "qwen2": _SIZES | {"model_type": "qwen2", "rope_theta": 1_000_000.0, "tie_word_embeddings": True},
    "qwen3": _SIZES | {"model_type": "qwen3", "head_dim": 32, "rope_theta": 1_000_000.0},
    "gemma2": _SIZES
    | _GEMMA
    | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _SIZES
    | _GEMMA
    # Five sliding layers to each full one; the smallest model that has both is one pattern deep.
    | {"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 6, "rope_local_base_freq": 1e4},
    "phi3": _SIZES
    | {
        "model_type": "phi3",
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 1024,
        "sliding_window": 512,
    },
    "phi4": _SIZES | {"model_type": "phi3", "original_max_position_embeddings": 1024, "partial_rotary_factor": 0.75},
    "olmo2": _SIZES | {"model_type": "olmo2", "num_key_value_heads": 4, "rope_theta": 500_000.0},
    "smollm2": _SIZES
    | {
        "model_type": "llama",
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
    },
    "mixtral": _SIZES | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _SIZES
    | {
        "model_type": "qwen3_moe",
        "head_dim": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
    },
    "gpt_oss": _SIZES
    | {
        "model_type": "gpt_oss",
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 256,
        },
    },
}


def write_family(name: str, directory: Path, **changes: Any) -> Path:
    """Writes the config.json of a family, with `changes` to its fields (None removes one); returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    fields = {key: value for key, value in (FAMILIES[name] | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(fields, indent=2), encoding="utf-8")
    return directory
