"""The peak memory of a training step, by a sum that a person can check with a pocket calculator.

Four instants compete for the peak: the loss, the feed-forward and the attention part of one layer in the backward pass,
and the optimiser's update. What is alive at each is a list of products of the letters below, read off the trace (which
decides; this explains it) and fitted to nothing. Dense decoders with gated feed-forward layers are described; the
docs say which settings are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from finetune.preflight.hardware import workspace_bytes
from finetune.preflight.kernels import sdpa_kernel
from finetune.preflight.optimisers import state_sizes
from finetune.preflight.step import Batch
from finetune.preflight.trace import worst_batch
from finetune.spec import RunSpec

GIB = 2**30
LEGEND = {
    "b": "rows of the micro batch",
    "s": "tokens of a row",
    "h": "hidden size",
    "i": "intermediate size",
    "L": "layers",
    "l": "layers but the last: L - 1",
    "V": "words of the vocabulary",
    "a": "attention heads",
    "q": "width of the queries: heads x their size",
    "k": "width of keys and values as attention takes them, repeated for every head where its kernel asks for it",
    "n": "widths of the layer's norms but one, h each",
    "x": "widths of the adapters' inputs in attention; one input read by several counts once where it is not cast",
    "y": "the same in the feed-forward part, without the down projection",
    "r": "ranks of a layer's adapters, added up",
    "g": "bytes of an activation, and of a weight that is not quantised",
    "c": "bytes of the compute type",
    "e": "bytes of what an adapter reads: PEFT casts it to the adapter's type where autocast is off",
    "Q": "weights in 4 bits",
    "D": "frozen weights that are not",
    "W": "the largest 4-bit weight",
    "P": "trained weights",
    "O": "bytes of optimiser state on the device (of a paged one, what is too small to page)",
    "w": "bytes of a cuBLAS workspace; the forward and the backward thread have one each",
    "T": "tokens of a tile of logits: at most 4,096",
}
"""What the letters mean."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""Tokens and words whose logits TRL's fused head holds at a time (`trl.kernels.chunked_logprob`)."""
STANDING, LOSS, FEED_FORWARD = "always", "loss", "feed-forward, backward"
ATTENTION, UPDATE = "attention, backward", "optimiser step"

FEED_FORWARD_LAYERS = {"gate_proj", "up_proj", "down_proj", "gate_up_proj"}

Terms = list[tuple[str, str]]
"""Causes, each with a product of letters and numbers between blanks."""


@dataclass(frozen=True)
class Line:
    """One product of the sum: when and why it is alive, its `formula` in letters and in `numbers`, and its bytes."""

    instant: str
    cause: str
    formula: str
    numbers: str
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """The peak by the closed form: `allocated` bytes in the instant named `phase`. Lines of the instant "always" count
    in every other."""

    allocated: int
    phase: str
    lines: list[Line]

    def instants(self) -> dict[str, int]:
        """Bytes alive at each instant."""
        standing = sum(line.bytes for line in self.lines if line.instant == STANDING)
        names = dict.fromkeys(line.instant for line in self.lines if line.instant != STANDING)
        return {name: standing + sum(line.bytes for line in self.lines if line.instant == name) for name in names}


def estimate(spec: RunSpec, batch: Batch | None = None) -> Estimate:
    """The peak of one training step of a described run, of its worst batch where no other is given."""
    step = _Step(spec, batch or worst_batch(spec))
    parts = {
        STANDING: step.standing(), LOSS: step.loss(), FEED_FORWARD: step.feed_forward(),
        ATTENTION: step.attention(), UPDATE: step.update(),
    }  # fmt: skip
    lines = [step.line(instant, *term) for instant, terms in parts.items() for term in terms]
    instants = Estimate(0, "", lines).instants()
    phase = max(instants, key=instants.__getitem__)
    return Estimate(instants[phase], phase, lines)


class _Step:
    """What is alive at each instant of a step, as products of letters."""

    def __init__(self, spec: RunSpec, batch: Batch) -> None:
        self.spec, self.training = spec, spec.config.training
        self.masked, self.eager = batch.padded or batch.packed, spec.attention == "eager"
        self.whole = not self.training.gradient_checkpointing
        self.letters = _sizes(spec, batch) | _weights(spec)
        adapter, self.dropout = getattr(torch, spec.config.lora.dtype).itemsize, spec.config.lora.dropout > 0
        self.cast = spec.autocast is None and adapter != self.letters["g"]
        # PEFT asks whether autocast is on where the base is in 4 bits only; elsewhere it casts, and autocast casts back.
        self.twice = spec.autocast is not None and not self.letters["Q"] and adapter != self.letters["g"]
        self.letters["e"] = adapter if self.cast else self.letters["c"]
        kernel = sdpa_kernel(spec.device.kind, spec.device.capability, spec.compute_dtype, self.masked)
        if self.eager or self.masked or kernel == "efficient":
            self.letters["k"] = self.letters["q"]
        self.adapted = _adapted(spec)
        self._read_by_adapters()

    def line(self, instant: str, cause: str, formula: str) -> Line:
        """A term with its letters replaced."""
        values = [self.letters.get(word) or float(word) for word in formula.split()]
        numbers = " × ".join(f"{value:,}" if value != int(value) else f"{int(value):,}" for value in values)
        return Line(instant, cause, formula, numbers, round(math.prod(values)))

    def standing(self) -> Terms:
        """What is there through the whole step."""
        size = getattr(torch, self.spec.config.lora.dtype).itemsize
        constants = 0.015869 if self.spec.config.quantization.double_quant else 0.0625
        terms = [("weights that are not quantised", "g D"), ("adapters", f"{size} P")]
        if self.letters["Q"]:
            terms = [("4-bit weights", "0.5 Q"), ("their block constants", f"{constants} Q"), *terms]
        if self.training.gradient_accumulation_steps > 1:
            terms.append(("gradients, kept for the next micro step", f"{size} P"))
        terms += [("optimiser state", "O")] if self.letters["O"] else []
        terms += [("cuBLAS workspaces", "2 w")] if self.letters["w"] else []
        return terms

    def loss(self) -> Terms:
        """The backward pass of the loss: whole logits three times in float32, or one tile and the hidden gradient."""
        terms = self._checkpoints(at_loss=True) + [("input of the last norm, float32", "4 b s h")]
        if self.whole:
            terms += self._attention_kept(" L") + self._feed_forward_kept(" L") + self._down_kept(" L")
        if self.training.loss_kernel == "full_logits":
            return [*terms, ("log-softmax, its gradient and that of the logits", "12 b s V")]
        tile = [("hidden states and their gradient", "2 g b s h"), ("the gradient in float32", "4 b s h")]
        tile.append(("a tile of logits", f"c T {TILE_WORDS}"))
        if self.spec.device.kind == "cpu":
            tile.append(("its steps on the CPU", f"29 T {TILE_WORDS}"))
        return terms + self._larger(tile, [("backward pass of the last norm", "20 b s h")])

    def feed_forward(self) -> Terms:
        """The worst of the feed-forward part: gradients, a weight expanded, an adapter's float32, a norm behind it."""
        grown = [[("gradients of gate, up and their product", "3 g b s i")]]
        down, hidden = "down_proj" in self.adapted, "4 g b s h" if self.whole else "2 g b s h"
        gradient = [("its gradient in float32", "4 b s h")] if down and self.cast else []
        if self.letters["W"]:
            own = [("hidden states", hidden), ("product of gate and up, or its gradient", "g b s i")]
            own += [("the same for the adapter", "e b s i")] if down and (self.cast or not self.whole) else []
            grown.append([*own, ("one weight expanded", "c W")])
        if self.letters["y"] and self.cast:
            grown.append([("hidden states", hidden), ("output of up's adapter, twice", "8 b s i"), *gradient])
            grown[-1] += [] if down else [("gradient of the product", "g b s i")]
        if down:
            grown.append([("hidden states", hidden), ("product of gate and up", "g b s i"), *gradient])
            grown[-1] += self._cast_of_product()
        if self.letters["n"] > self.letters["h"]:
            grown.append([("backward pass of the norm behind", "20 b s h")])
        n = " L" if self.whole else ""
        kept = self._checkpoints() + self._attention_kept(n) + self._feed_forward_kept(n)
        kept += self._down_kept(" l") if self.whole else []
        kept.append(("gradient of the layer's output", "g b s h"))
        kept += [] if self.whole else [("hidden states between the parts", "g b s h")]
        return kept + self._larger(*grown)

    def attention(self) -> Terms:
        """The backward pass of attention: scores in float32 three times over, or the kernel's gradients."""
        kept = self._checkpoints()
        if self.whole:
            kept += self._attention_kept(" L") + self._feed_forward_kept(" l") + self._down_kept(" l")
        else:
            kept += self._attention_kept("")
        kept.append(("gradient of the layer's output", "g b s h"))
        if not self.eager:
            kept += [("gradients of queries, keys, values, output", "4 g b s q"), ("sums in float32", "4 b s q")]
            return kept
        half = self.spec.compute_dtype.itemsize == 2 and self.letters["g"] == 2
        result = 2 if self.spec.compute_dtype is torch.float16 else 4
        return [*kept, ("gradients of the scores", f"{8 + result - half * 2} b a s s")]

    def update(self) -> Terms:
        """The optimiser's update, with nothing left of the forward pass."""
        size = getattr(torch, self.spec.config.lora.dtype).itemsize
        terms = [("gradients", f"{size} P")] if self.training.gradient_accumulation_steps == 1 else []
        together = self.training.optimizer == "adamw_torch" and self.spec.device.kind == "cuda"
        return terms + ([("roots of all second moments", f"{size} P")] if together else [])

    def _checkpoints(self, *, at_loss: bool = False) -> Terms:
        terms = [("attention mask", "g b s s" if self.eager else "b s s")] if self.masked or self.eager else []
        if self.whole:
            return [*terms, ("adapters cast by autocast", "c P")] if self.spec.autocast else terms
        if not self.training.activation_offloading:
            return [*terms, ("checkpoints, the input of each layer", "g b s h L")]
        back = [] if at_loss else [("input of the layer, and of the last norm, back on the card", "6 b s h")]
        return [*terms, ("embeddings", "g b s h"), *back]

    def _attention_kept(self, n: str) -> Terms:
        terms = [("inputs of norms, float32", f"4 b s n{n}")]
        terms += self._inputs("x", n)
        terms += [("queries", f"g b s q{n}"), ("keys and values", f"2 g b s k{n}")]
        if self.eager:
            terms.append(("softmax of the scores, float32", f"4 b a s s{n}"))
            return terms + ([("the same in 16 bits", f"2 b a s s{n}")] if self.letters["g"] == 2 else [])
        terms.append(("attention's output", f"g b s q{n}"))
        return terms + ([("the mask as numbers", f"g b s s{n}")] if self.masked else [])

    def _feed_forward_kept(self, n: str) -> Terms:
        terms = [("input of the norm, float32", f"4 b s h{n}"), *self._inputs("y", n)]
        return [*terms, ("gate, its activation, up", f"3 g b s i{n}")]

    def _down_kept(self, n: str) -> Terms:
        return self._inputs("i", n) if "down_proj" in self.adapted else []

    def _cast_of_product(self) -> Terms:
        terms = [("the same in float32", "4 b s i")] if self.cast or self.twice else []
        if self.dropout:
            terms += [("its dropout", "4 b s i" if terms else "c b s i"), ("and the mask", "b s i")]
        return terms + ([("cast back by autocast", "c b s i")] if self.twice else [])

    def _inputs(self, letter: str, n: str) -> Terms:
        terms = [("what adapters read", f"e b s {letter}{n}")] if self.letters[letter] else []
        return terms + ([("masks of their dropout", f"b s {letter}{n}")] if terms and self.dropout else [])

    def _larger(self, *choices: Terms) -> Terms:
        return max(choices, key=lambda terms: sum(self.line("", *term).bytes for term in terms))

    def _read_by_adapters(self) -> None:
        """x and y: each adapter keeps an input of its own where it is cast or dropped out, else they share it."""
        inputs, h, letters = self.adapted, self.letters["h"], self.letters
        feed_forward = {name: width for name, width in inputs.items() if name in FEED_FORWARD_LAYERS}
        attention = {name: width for name, width in inputs.items() if name not in FEED_FORWARD_LAYERS}
        feed_forward.pop("down_proj", None)
        if self.cast or self.twice or self.dropout:
            letters["x"], letters["y"] = sum(attention.values()), sum(feed_forward.values())
            return
        out = attention.pop("o_proj", 0) if self.eager else attention.pop("o_proj", 0) * 0
        letters["x"], letters["y"] = (h if attention else 0) + out, h if feed_forward else 0


def _sizes(spec: RunSpec, batch: Batch) -> dict[str, float]:
    text = spec.model_config.get_text_config()
    a, h = text.num_attention_heads, text.hidden_size
    size = getattr(text, "head_dim", None) or h // a
    q, k = a * size, (getattr(text, "num_key_value_heads", None) or a) * size
    norms = [t.name for t in spec.tensors if ".layers.0." in t.name and t.name.endswith("norm.weight")]
    widths = sum(q if "q_norm" in name else k if "k_norm" in name else h for name in norms)
    g = 4 if spec.config.model.fp32_unquantized else spec.dtype.itemsize
    return {
        "b": batch.rows, "s": batch.tokens, "h": h, "i": text.intermediate_size, "L": text.num_hidden_layers,
        "l": text.num_hidden_layers - 1, "V": text.vocab_size, "a": a, "q": q, "k": k, "n": widths - h, "g": g,
        "c": spec.compute_dtype.itemsize, "T": min(batch.rows * batch.tokens, TILE_TOKENS),
        "w": workspace_bytes(spec.device) // 2,
    }  # fmt: skip


def _weights(spec: RunSpec) -> dict[str, float]:
    trained = [tensor.elements for tensor in spec.tensors if tensor.trainable]
    quantised = [tensor.elements for tensor in spec.tensors if tensor.quantized]
    name = spec.config.training.optimizer
    state = 0 if name == "sgd" else sum(sum(state_sizes(name, elements)) for elements in trained)
    return {
        "Q": sum(quantised), "D": spec.parameters.total - sum(quantised) - sum(trained), "P": sum(trained),
        "W": max(quantised, default=0), "O": state,
    }  # fmt: skip


def _adapted(spec: RunSpec) -> dict[str, int]:
    """Widths of the inputs of a layer's adapters, by the name of the linear layer."""
    names = {t.name: t.shape[1] for t in spec.tensors if ".layers.0." in t.name and ".lora_A." in t.name}
    return {name.split(".lora_A.")[0].split(".")[-1]: width for name, width in names.items()}
