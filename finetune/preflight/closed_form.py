"""The peak memory of a training step, by a sum that a person can check.

Three instants compete for the peak: the backward pass of the loss, the recomputation of one layer in the backward
pass, and the optimiser step. Letters: b micro batch, s tokens, h hidden size, i intermediate size, L layers,
V vocabulary, a attention heads, g bytes of the residual stream, c bytes of the compute type.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finetune.spec import RunSpec

STATE_BYTES = {"adamw_torch": 8.0, "paged_adamw_32bit": 8.0, "adamw_8bit": 2.03, "paged_adamw_8bit": 2.03, "sgd": 0.0}
"""Bytes of optimiser state for one trained weight: two fp32 moments, or two 8-bit ones with their block maxima."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""Tokens and words whose logits TRL's fused head holds at a time (`trl.kernels.chunked_logprob`)."""
SCORE_BYTES = 14
"""Bytes a score of eager attention takes in its backward pass: the fp32 softmax and its 16-bit copy, the fp32 gradient,
and the product that the CUDA kernel of the softmax's backward pass makes before it."""


@dataclass(frozen=True)
class Prediction:
    """Bytes at the peak of a step: `allocated` is torch's own count, `reserved` adds what its allocator keeps, and
    `process` the CUDA context. `breakdown` sums to `allocated`; `phase` names the instant."""

    allocated: int
    reserved: int
    process: int
    phase: str
    breakdown: dict[str, int]


def predict(spec: RunSpec, context_bytes: int = 0, workspace_bytes: int = 0, fragmentation: float = 1.0) -> Prediction:
    """The peak of one training step of a described run."""
    fixed = _fixed(spec) | ({"workspace": workspace_bytes} if workspace_bytes else {})
    phases = {
        "loss backward": fixed | {"checkpoints": _checkpoints(spec), "logits and loss": _loss(spec), "gradients": 0},
        "layer backward": fixed | {
            "checkpoints": _checkpoints(spec), "layer activations": _layer(spec), "gradients": _gradients(spec),
            "dequantised weight": _dequantised(spec), "logits and loss": _loss_held(spec),
        },
        "optimiser step": fixed | {"gradients": _gradients(spec)},
    }  # fmt: skip
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    breakdown = {cause: size for cause, size in phases[phase].items() if size}
    allocated = sum(breakdown.values())
    reserved = int(allocated * fragmentation)
    return Prediction(allocated, reserved, reserved + context_bytes, phase, breakdown)


def _fixed(spec: RunSpec) -> dict[str, int]:
    frozen = sum(tensor.bytes for tensor in spec.tensors if not tensor.trainable)
    adapters = sum(tensor.bytes for tensor in spec.tensors if tensor.trainable)
    optimizer = spec.config.training.optimizer
    # Paged state is managed memory, which torch does not count and which leaves the card when it is full.
    state = 0 if optimizer.startswith("paged") else int(STATE_BYTES[optimizer] * spec.parameters.trainable)
    return {"weights": frozen, "adapters": adapters, "optimiser": state}


def _tokens(spec: RunSpec) -> int:
    return spec.config.training.micro_batch_size * spec.config.data.max_length


def _residual_bytes(spec: RunSpec) -> int:
    """g: embeddings cast to fp32 make the residual stream fp32."""
    return 4 if spec.config.model.fp32_unquantized else spec.dtype.itemsize


def _checkpoints(spec: RunSpec) -> int:
    """g b s h (L + 3): one input a layer, the embeddings, and the last norm in and out."""
    text = spec.model_config.get_text_config()
    layers = text.num_hidden_layers
    if not spec.config.training.gradient_checkpointing:
        return _residual_bytes(spec) * _tokens(spec) * text.hidden_size * 3 + layers * _layer(spec)
    kept = 3 if spec.config.training.activation_offloading else layers + 3
    return _residual_bytes(spec) * _tokens(spec) * text.hidden_size * kept


def _layer(spec: RunSpec) -> int:
    """Activations of one layer in its backward pass, in bytes: the larger of two instants.

    At the feed-forward part everything recomputed is alive: two norms (in fp32 and out), q, k, v, rotated q and k,
    attention's output, gate, up, activation, product and two gradients. At the attention part the feed-forward is gone.
    """
    text = spec.model_config.get_text_config()
    c, h = spec.compute_dtype.itemsize, text.hidden_size
    heads = text.num_attention_heads
    width = (getattr(text, "head_dim", None) or h // heads) * heads
    kv = width * (getattr(text, "num_key_value_heads", None) or heads) // heads
    casts = 4 * (3 * h + width) if spec.autocast and spec.config.lora.dtype == "float32" else 0
    attention = (4 + c) * h + c * (3 * width + 3 * kv) + casts
    scores = heads * spec.config.data.max_length if spec.attention == "eager" else 0
    feed_forward = (4 + c) * h + c * 6 * text.intermediate_size
    at_feed_forward = attention + feed_forward + (4 + c) * scores
    at_attention = attention + c * 3 * h + SCORE_BYTES * scores
    return int(_tokens(spec) * max(at_feed_forward, at_attention))


def _logit_bytes(spec: RunSpec) -> int:
    """k: fp32 logits, their shifted copy, probabilities and gradient; 16-bit logits are upcast first."""
    return 16 if _residual_bytes(spec) == 4 else 14


def _loss(spec: RunSpec) -> int:
    """k b s V for whole logits; for the fused kernel one tile, and the gradient of the hidden states in float32.

    On a card a Triton kernel turns a tile into its gradient in place; on the CPU torch does it in steps, seven float32
    tiles and a mask of bytes beside it.
    """
    text, tokens = spec.model_config.get_text_config(), _tokens(spec)
    if spec.config.training.loss_kernel == "full_logits":
        return _logit_bytes(spec) * tokens * text.vocab_size
    per_logit = spec.compute_dtype.itemsize + (29 if spec.device.kind == "cpu" else 0)
    tile = per_logit * min(tokens, TILE_TOKENS) * min(text.vocab_size, TILE_WORDS)
    return tile + 4 * tokens * text.hidden_size


def _loss_held(spec: RunSpec) -> int:
    """Logits that the model's output still holds while layers run backward."""
    if spec.config.training.loss_kernel == "fused_linear":
        return 0
    return _residual_bytes(spec) * _tokens(spec) * spec.model_config.get_text_config().vocab_size


def _dequantised(spec: RunSpec) -> int:
    """The largest 4-bit weight, expanded."""
    if spec.config.quantization.type == "none":
        return 0
    return (
        max((tensor.elements for tensor in spec.tensors if tensor.quantized), default=0) * spec.compute_dtype.itemsize
    )


def _gradients(spec: RunSpec) -> int:
    return sum(
        tensor.bytes for tensor in spec.tensors if tensor.trainable and tensor.dtype in (torch.float32, torch.bfloat16)
    )
