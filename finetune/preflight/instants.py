"""What is alive at each instant of a step, as products of letters: the terms of the closed form.

Each term was read off a trace, from what is alive there; none is fitted. The sizes of dense decoders with gated
feed-forward layers are described, as Llama's are.
"""

from __future__ import annotations

import math

import torch

from finetune.preflight.letters import TILE_WORDS, adapted, casts, casts_twice
from finetune.preflight.loading import GATHERED_AT_ONCE
from finetune.preflight.step import Batch
from finetune.spec import RunSpec

Terms = list[tuple[str, str]]
"""Causes, each with a product of numbers and letters between blanks."""


class Instants:
    """The terms of a described run. Layers whose activations are alive are the factor at a term's end: one where
    checkpoints are kept, `L` where everything is."""

    def __init__(self, spec: RunSpec, batch: Batch, letters: dict[str, float]) -> None:
        self._spec, self._training, self._letters = spec, spec.config.training, letters
        self._eager = spec.attention == "eager"
        self._masked = spec.attention == "sdpa" and (batch.padded or batch.packed)
        self._f = "f" if self._training.feed_forward_chunk else "s"
        self._lean, self._lean_gates = spec.config.model.lean_norms, spec.config.model.lean_gates
        self._unpads = spec.attention == "flash_attention_2" and batch.padded
        self._whole, self._some = spec.recomputed_layers < spec.layers, 0 < spec.recomputed_layers < spec.layers
        # Layers that keep their activations: in the backward pass those of the last go first.
        self._all, self._less = (" H", " j") if self._some else (" L", " l")
        self._accumulates = self._training.gradient_accumulation_steps > 1
        self._cast, self._twice, self._dropout = casts(spec), casts_twice(spec), spec.config.lora.dropout > 0
        self._down = "down_proj" in adapted(spec)
        # A norm behind each part, as in OLMo-2 and Gemma.
        self._behind = any(".layers.0.post_feedforward_layernorm." in tensor.name for tensor in spec.tensors)

    def standing(self) -> Terms:
        """What is there at every instant."""
        constants = 0.015869 if self._spec.config.quantization.double_quant else 0.0625
        shards = self._spec.config.hardware.shards
        whole = [] if shards == 1 else [("weights of gathered layers", f"{0.5 * GATHERED_AT_ONCE} S")]
        weights = "4-bit weights" if shards == 1 else f"4-bit weights, one part of {shards}"
        terms = [
            (weights, f"{0.5 / shards:.6g} Q"),
            *whole,
            ("their block constants", f"{constants} Q"),
            ("other weights", "g D"),
        ]
        terms += [("adapters", "m P"), ("optimiser state", "O"), ("cuBLAS workspaces", "2 w")]
        terms += [("gradients, kept for the next micro step", "m P")] if self._accumulates else []
        return [term for term in terms if self._bytes([term])]

    def loss(self) -> Terms:
        """The backward pass of the loss: the logits three times in float32, or a tile of them and the hidden states."""
        offloads, full = self._training.activation_offloading, self._training.loss_kernel == "full_logits"
        terms = self._between(at_loss=True) + (self._kept(self._all, self._all, self._all) if self._whole else [])
        if full:
            norm = [] if offloads else [self._read_by_norm("the last norm", "h")]
            return [*terms, *norm, ("log-softmax, its gradient, that of the logits", "12 b s V")]
        if self._spec.linear_loss:
            tile = [("hidden states and their gradient", "2 g b s h"), ("a tile of logits, float32", "4 T v")]
            return [*terms, *tile, *([("the same in 16 bits", "c T v")] if self._letters["c"] == 2 else [])]
        tile = [("hidden states and their gradient", "2 g b s h"), ("their gradient in float32", "4 b t h")]
        tile.append(("a tile of logits", f"c T {TILE_WORDS}"))
        if self._spec.device.kind == "cpu":
            tile.append(("seven more in float32, and a mask", "29 T v"))
        return [
            *terms,
            self._read_by_norm("the last norm", "h"),
            *self._larger(tile, self._norm_backward("the last norm")),
        ]

    def feed_forward(self) -> Terms:
        """The worst of the feed-forward part: its gradients, a weight expanded, an adapter, or a norm behind it."""
        kept = self._kept(self._all, self._all, self._less) if self._whole else self._kept("", "", None)
        gradient = ("gradient of the layer's output", "g b s h")
        choices = [[("gradients of gate, up and their product", f"3 g b {self._f} i")], *self._recomputed()]
        if self._behind:
            own = self._inputs("i", "") if self._down and not self._whole else []
            choices.append([*own, *self._norm_backward("the norm behind")])
        return [*self._between(), *kept, gradient, *self._larger(*choices)]

    def _recomputed(self) -> list[Terms]:
        """Moments at which a weight is expanded, or at which up's or down's adapter has its input and output."""
        hidden = ("hidden states of the layer", "4 g b s h" if self._whole else "3 g b s h")
        product = ("product of gate and up, or its gradient", f"g b {self._f} i")
        choices = []
        if self._letters["W"]:
            own = [
                hidden,
                product,
                *([("the same for the adapter", f"e b {self._f} i")] if self._down and self._cast else []),
            ]
            if self._down and not self._whole:
                own = [("gradients of the product, from down and its adapter", f"2 g b {self._f} i")]
            choices.append([*own, ("one weight expanded", "c W")])
        gradient = [("gradient of down's adapter, float32", "4 b s h")] if self._down and self._cast else []
        if self._letters["y"] and self._cast:
            first = gradient if self._down else [product]
            choices.append([hidden, *first, ("output of up's adapter, before and after scaling", f"8 b {self._f} i")])
        if self._down:
            choices.append([hidden, product, *gradient, *self._read_by_down()])
        return choices

    def attention(self) -> Terms:
        """The backward pass of attention: scores in float32 three times more, or the kernel's gradients."""
        kept = self._kept(self._all, self._less, self._less) if self._whole else self._kept("", None, None)
        terms = [*self._between(), *kept, ("gradient of the layer's output", "g b s h")]
        terms += [("of these the norm behind, done already", "-4 b s h")] if self._behind else []
        if self._eager:
            # A softmax that read float16 gives a float16 gradient.
            scores = 10 if self._spec.compute_dtype is torch.float16 and self._letters["g"] == 2 else 12
            return [*terms, ("gradients of softmax and scores, their product", f"{scores} b a s s")]
        shared = self._letters["k"] != self._letters["q"]
        terms += [("gradients of keys and values, summed over heads", "2 g b s k")] if shared else []
        return [*terms, ("gradients of q, k, v and output", "4 g b s q"), ("that of q in float32", "4 b s q")]

    def update(self) -> Terms:
        """The optimiser's update, with nothing left of the forward pass."""
        terms = [] if self._accumulates else [("gradients", "m P")]
        together = self._training.optimizer == "adamw_torch" and self._spec.device.kind == "cuda"
        return terms + ([("roots of the second moments", "m P")] if together else [])

    def _between(self, *, at_loss: bool = False) -> Terms:
        """What the forward pass leaves for the backward pass outside of the layers."""
        terms = [("attention mask", "g b s s" if self._eager else "b s s")] if self._masked or self._eager else []
        if self._some:
            terms.append(("checkpoints, the input of each recomputed layer", "g b s h R"))
        if self._whole:
            cast = ("adapters cast by autocast", "c U" if self._some else "c P")
            return [*terms, cast] if self._spec.autocast else terms
        if self._training.activation_offloading:
            last = "2 g b s h" if self._lean else "6 b s h"
            back = [] if at_loss else [("inputs of layer and last norm, back on the card", last)]
            return [*terms, ("embeddings", "g b s h"), *back]
        checkpoints = [("checkpoints, the input of each layer", "g b s h L")]
        # The backward pass of a layer lets its checkpoint go and leaves its gradients.
        grown = [] if at_loss or self._accumulates else [("gradients", "m P")]
        return terms + self._larger(checkpoints, grown)

    def _kept(self, attention: str, feed_forward: str | None, down: str | None) -> Terms:
        """What layers keep for their backward pass, of each part in as many as the factors say, None for none."""
        # Before the first adapter nothing has a gradient, so that a norm before it keeps nothing.
        norms = " l" if attention == " L" and self._letters["n"] == self._letters["h"] else attention
        terms = [*self._read_by_norms(norms), *self._inputs("x", attention)]
        terms += [("queries", f"g b s q{attention}"), ("keys and values", f"2 g b s k{attention}")]
        if not self._eager:
            terms.append(("attention's output", f"g b s q{attention}"))
            terms += [("the mask as numbers", f"g b s s{attention}")] if self._masked else []
            terms += [("output with padding put back", f"g b s q{attention}")] if self._unpads else []
        else:
            terms.append(("softmax of the scores, float32", f"4 b a s s{attention}"))
            half = feed_forward is not None and self._letters["g"] == 2
            terms += [("the same in 16 bits", f"2 b a s s{feed_forward}")] if half else []
        if feed_forward is not None:
            terms += [self._read_by_norm("the next norm", f"h{feed_forward}"), *self._inputs("y", feed_forward)]
            gates = ("gate and up", "2") if self._lean_gates else ("gate, its activation, up", "3")
            terms.append((gates[0], f"{gates[1]} g b {self._f} i{feed_forward}"))
        return terms + (self._inputs("i", down) if self._down and down is not None else [])

    def _read_by_norms(self, layers: str) -> Terms:
        """What the norms of a layer but its last keep; the one before attention reads the layer's checkpoint."""
        there = self._lean and not (self._whole or self._behind)
        if there and self._letters["n"] == self._letters["h"]:
            return []
        terms = [self._read_by_norm("norms", f"n{layers}")]
        return [*terms, ("of these the layer's checkpoint, there already", "-1 g b s h")] if there else terms

    def _read_by_norm(self, which: str, width: str) -> tuple[str, str]:
        """What a norm keeps: its input as it is, or as float32."""
        return (
            (f"what {which} read", f"g b s {width}")
            if self._lean
            else (f"what {which} read, float32", f"4 b s {width}")
        )

    def _norm_backward(self, which: str) -> Terms:
        if not self._lean:
            return [(f"backward pass of {which}, five times float32", "20 b s h")]
        return [(f"gradients of what {which} gave and read", "2 g b s h"), ("three tiles of them in float32", "3 N")]

    def _inputs(self, letter: str, layers: str) -> Terms:
        if not self._letters[letter]:
            return []
        masks = [("masks of their dropout", f"b s {letter}{layers}")] if self._dropout else []
        return [("what adapters read", f"e b s {letter}{layers}"), *masks]

    def _read_by_down(self) -> Terms:
        """What becomes of the product of gate and up on its way into down's adapter."""
        wide = self._cast or self._twice
        terms = [("the product in float32", f"4 b {self._f} i")] if wide else []
        if self._dropout:
            terms += [
                ("its dropout", f"4 b {self._f} i" if wide else f"c b {self._f} i"),
                ("the dropout's mask", f"b {self._f} i"),
            ]
        return terms + ([("cast back by autocast", f"c b {self._f} i")] if self._twice else [])

    def _larger(self, *choices: Terms) -> Terms:
        return max(choices, key=self._bytes)

    def _bytes(self, terms: Terms) -> float:
        return sum(math.prod(values_of(formula, self._letters)) for _, formula in terms)


def values_of(formula: str, letters: dict[str, float]) -> list[float]:
    """The factors of a product, letters replaced."""
    return [letters[word] if word in letters else float(word) for word in formula.split()]
