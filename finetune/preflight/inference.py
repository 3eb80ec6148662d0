"""Terms of the closed form for forward passes that nothing is learned from: sampling completions, and the reference."""

from __future__ import annotations

import torch

from finetune.preflight.instants import Instants, Terms


class Inference(Instants):
    """The terms of a run that samples or has a reference, beside those of every run."""

    def reference(self) -> Terms:
        """One layer of the reference's forward pass, beside all that the policy keeps for its backward pass."""
        terms = self._between(at_loss=True) + (self._kept(" L", " L", " L") if self._whole else [])
        if self._masked or self._eager:
            terms.append(("attention mask of the reference", "g b s s" if self._eager else "b s s"))
        policy = [("what the last norm read, float32", "4 b s h"), ("hidden states that the head read", "g b s h")]
        return [*terms, *policy, *self._forward("b", "s", adapter=False)]

    def prefill(self) -> Terms:
        """The last layer of the pass over all prompts of an update, beside the cache that it fills."""
        terms = [*self._no_gradients(), ("keys and values of all prompts", "2 g B p K L")]
        if self._eager or self._pads_prompts:
            terms.append(("attention mask", "g B p p" if self._eager else "B p p"))
        return [*terms, *self._forward("B", "p", adapter=True)]

    def decoding(self) -> Terms:
        """The last token: a layer's cache beside its longer copy, a weight expanded, or the choice of the token."""
        terms = [*self._no_gradients(), ("keys and values of all completions", "2 g B s K L")]
        before = ("logits and probabilities of the token before", "8 B V")
        copied = [before, ("a layer's keys, copied", "g B s K")]
        chosen = [("logits in float32 and probabilities", "8 B V")]
        if self._spec.config.rollout.top_p < 1:
            chosen.append(("sorted, their places, probabilities and sums", "20 B V"))
        choices = [copied, [before, *chosen]]
        if self._eager:
            choices.append([before, ("keys and values, repeated for every head", "2 g B s q")])
        if self._letters["W"]:
            choices.append([before, ("one weight expanded", "c W")])
        return [*terms, *self._larger(*choices)]

    def _forward(self, rows: str, tokens: str, *, adapter: bool) -> Terms:
        """The worst of one layer's forward pass without gradients: the feed-forward part, a norm behind it, or the
        scores of eager attention."""
        each = f"{rows} {tokens}"
        hidden = ("hidden states", f"4 g {each} h")
        wide = [("gate's activation, up and their product", f"3 g {each} i")]
        if adapter and self._letters["y"]:
            wide = [("gate's activation and up", f"2 g {each} i")]
            wide.append(("output of up's adapter, before and after scaling", f"2 m {each} i"))
            if self._letters["m"] != self._letters["g"]:  # sampling knows no autocast: PEFT casts
                wide.append(("what it reads", f"m {each} h"))
        choices = [[hidden, *wide]]
        if self._behind:
            choices.append([hidden, ("the norm behind, four times float32", f"16 {each} h")])
        if self._eager:
            choices.append([hidden, *self._scores(each, tokens)])
        return self._larger(*choices)

    def _scores(self, each: str, tokens: str) -> Terms:
        """Eager attention: scores, and their softmax in float32 with what it reads or what it is cast to. A card's
        softmax reads float16 as it is."""
        reads = self._spec.compute_dtype is torch.float16 and self._spec.device.kind == "cuda"
        sums = 4 if self._letters["g"] == 4 else 6 if reads else 8
        terms = [("scores", f"g {each} a {tokens}"), ("their softmax", f"{sums} {each} a {tokens}")]
        grouped = self._letters["K"] < self._letters["q"]
        return [*terms, *([("keys and values, repeated", f"2 g {each} q")] if grouped else [])]

    def _no_gradients(self) -> Terms:
        return [("of these the gradients, not there yet", "-1 m P")] if self._accumulates else []

    @property
    def _pads_prompts(self) -> bool:
        return self._masked and self._letters["B"] > self._spec.config.rollout.num_generations
