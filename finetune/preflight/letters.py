"""The letters of the closed form: what each means, and its value in a described run."""

from __future__ import annotations

import torch

from finetune.preflight.hardware import HANDLES, workspace_bytes
from finetune.preflight.kernels import sdpa_kernel
from finetune.preflight.optimisers import state_sizes
from finetune.preflight.step import Batch
from finetune.spec import RunSpec
from finetune.spec.linear_loss import tile_tokens
from finetune.spec.norms import TILE_BYTES as NORM_TILE

LEGEND = {
    "b": "rows of the micro batch",
    "s": "tokens of a row",
    "B": "completions sampled at once, those of an update",
    "p": "tokens of a prompt",
    "t": "tokens of a row that the head reads: on a card those with a label, where the model samples them itself",
    "h": "hidden size",
    "i": "intermediate size",
    "L": "layers",
    "l": "layers but one",
    "R": "layers that are recomputed",
    "H": "layers that keep their activations",
    "j": "these but one",
    "V": "words of the vocabulary",
    "T": "tokens of a tile of logits: on a card at most 4,096, 32,768 words wide",
    "v": "words in it",
    "f": "tokens of a row whose feed-forward part is computed at once",
    "a": "attention heads",
    "q": "width of the queries: heads times head size",
    "k": "width of keys and values; q where they are repeated for every head",
    "K": "their width in the cache",
    "N": "bytes of a tile of a norm, at most 64 MiB",
    "n": "widths of a layer's norms but the last, added up",
    "x": "widths of what adapters of the attention part read, added up, shared ones once",
    "y": "the same for gate and up",
    "g": "bytes of an activation, and of a weight that is not quantised",
    "c": "bytes of the compute type",
    "e": "bytes of what an adapter reads: PEFT casts it where autocast is off",
    "m": "bytes of an adapter's weight",
    "Q": "weights in 4 bits",
    "D": "frozen weights that are not",
    "W": "weights of the largest 4-bit layer",
    "S": "4-bit weights of a layer of the model",
    "P": "trained weights",
    "U": "trained weights of layers that keep their activations",
    "O": "bytes of optimiser state on the device, without what is paged",
    "w": "bytes of a cuBLAS workspace, one each for the forward and the backward thread",
}
"""What the letters mean."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""Tokens and words whose logits TRL's fused head holds at a time (`trl.kernels.chunked_logprob`)."""
FEED_FORWARD_LAYERS = {"gate_proj", "up_proj", "gate_up_proj"}


def letters_of(spec: RunSpec, batch: Batch) -> dict[str, float]:
    """The value of every letter."""
    letters = _sizes(spec, batch) | _bytes(spec) | _weights(spec)
    if _repeats(spec, batch, letters["g"]):
        letters["k"] = letters["q"]
    letters["U"] = letters["P"] * letters["H"] // letters["L"]
    return letters | _read(spec, letters)


def adapted(spec: RunSpec) -> dict[str, int]:
    """Widths of what a layer's adapters read, by the name of the linear layer."""
    first = {t.name: t.shape[1] for t in spec.tensors if ".layers.0." in t.name and ".lora_A." in t.name}
    return {name.split(".lora_A.")[0].split(".")[-1]: width for name, width in first.items()}


def casts(spec: RunSpec) -> bool:
    """Whether PEFT casts what an adapter reads to the adapter's type, and that is how it is kept."""
    return spec.autocast is None and _adapter_bytes(spec) != _activation_bytes(spec)


def casts_twice(spec: RunSpec) -> bool:
    """Whether it casts, and autocast casts back: PEFT asks for autocast only where the base is in 4 bits."""
    dense = spec.config.quantization.type == "none"
    return spec.autocast is not None and dense and _adapter_bytes(spec) != _activation_bytes(spec)


def _adapter_bytes(spec: RunSpec) -> int:
    return getattr(torch, spec.config.lora.dtype).itemsize


def _activation_bytes(spec: RunSpec) -> int:
    """g: embeddings cast to float32 make the residual stream, and all that is computed from it, float32."""
    return 4 if spec.config.model.fp32_unquantized else spec.dtype.itemsize


def _sizes(spec: RunSpec, batch: Batch) -> dict[str, float]:
    text = spec.model_config.get_text_config()
    a, h, depth = text.num_attention_heads, text.hidden_size, text.num_hidden_layers
    size = getattr(text, "head_dim", None) or h // a
    q, k = a * size, (getattr(text, "num_key_value_heads", None) or a) * size
    norms = [t.name for t in spec.tensors if ".layers.0." in t.name and t.name.endswith("norm.weight")]
    widths = [q if "q_norm" in name else k if "k_norm" in name else h for name in norms]
    wide = getattr(text, "intermediate_size", None) or 4 * h
    sampled = batch.rows * spec.config.training.gradient_accumulation_steps
    completions = spec.config.training.online and spec.device.kind == "cuda"
    read = batch.tokens - batch.prompt_tokens if completions else batch.tokens
    tile = {"T": min(batch.rows * read, TILE_TOKENS), "v": min(text.vocab_size, TILE_WORDS)}
    if spec.linear_loss:
        tile = {"T": min(batch.rows * read, tile_tokens(text.vocab_size)), "v": text.vocab_size}
    tile["N"] = min(4 * batch.rows * batch.tokens * h, NORM_TILE)
    tile["f"] = min(batch.tokens, spec.config.training.feed_forward_chunk or batch.tokens)
    recomputed = spec.recomputed_layers
    return tile | {
        "b": batch.rows, "s": batch.tokens, "B": sampled, "p": batch.prompt_tokens, "t": read, "h": h, "i": wide,
        "L": depth, "l": depth - 1, "R": recomputed, "H": depth - recomputed, "j": depth - recomputed - 1,
        "V": text.vocab_size, "a": a, "q": q, "k": k, "K": k, "n": sum(widths[:-1]),
    }  # fmt: skip


def _bytes(spec: RunSpec) -> dict[str, float]:
    compute, adapter = spec.compute_dtype.itemsize, _adapter_bytes(spec)
    return {
        "g": _activation_bytes(spec), "c": compute, "m": adapter, "e": adapter if casts(spec) else compute,
        "w": workspace_bytes(spec.device) // HANDLES,
    }  # fmt: skip


def _weights(spec: RunSpec) -> dict[str, float]:
    trained = [tensor.elements for tensor in spec.tensors if tensor.trainable]
    quantised = [tensor.elements for tensor in spec.tensors if tensor.quantized]
    name = spec.config.training.optimizer
    state = 0 if name == "sgd" else sum(sum(state_sizes(name, elements)) for elements in trained)
    frozen = spec.parameters.total - sum(trained) - sum(quantised)
    return {
        "Q": sum(quantised),
        "D": frozen,
        "W": max(quantised, default=0),
        "S": sum(quantised) // spec.layers,
        "P": sum(trained),
        "O": state,
    }


def _repeats(spec: RunSpec, batch: Batch, activation: float) -> bool:
    """Whether keys and values are repeated for every head: all do but flash attention, which takes no mask."""
    if spec.attention != "sdpa":
        return spec.attention == "eager"
    computed = spec.autocast or (torch.float32 if activation == 4 else spec.dtype)
    masked = batch.padded or batch.packed
    return masked or sdpa_kernel(spec.device.kind, spec.device.capability, computed, masked) == "efficient"


def _read(spec: RunSpec, letters: dict[str, float]) -> dict[str, float]:
    """x and y. Adapters share what they read, unless it is cast or dropped out for each; attention's output, which the
    output projection reads, is kept anyway by every kernel but the eager one."""
    inputs, h = adapted(spec), letters["h"]
    gates = {name: width for name, width in inputs.items() if name in FEED_FORWARD_LAYERS}
    attention = {name: width for name, width in inputs.items() if name not in {*gates, "down_proj"}}
    if casts(spec) or casts_twice(spec) or spec.config.lora.dropout:
        return {"x": sum(attention.values()), "y": sum(gates.values())}
    out = attention.pop("o_proj", 0)
    return {"x": h * bool(attention) + out * (spec.attention == "eager"), "y": h * bool(gates)}
