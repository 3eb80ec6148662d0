"""A run priced from shallow traces: what a layer adds is a straight line, so two depths say all of it, and three where
some layers keep their activations and others do not.

A full trace of a 7B model takes a second or two; advice and the search for the largest batch need a dozen of them.
tests/preflight/test_depth.py holds the line against full traces.
"""

from __future__ import annotations

import copy
import dataclasses

from transformers import PretrainedConfig

from finetune.preflight.hardware import context_bytes
from finetune.preflight.prediction import Prediction, predict
from finetune.spec import RunSpec

LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers", "mlp_only_layers")
"""Keys of a configuration that say something of each layer."""


@dataclasses.dataclass(frozen=True)
class Price:
    """Predicted peaks in bytes: what torch allocates, and the whole process."""

    allocated: int
    process: int


def price(spec: RunSpec) -> Price:
    """The peak of a described run, from traces at two depths; from a whole one where layers do not repeat evenly."""
    some = 0 < spec.recomputed_layers < spec.layers
    if some and (split := Split.of(spec)):
        return split.price(spec.recomputed_layers)
    period = _period(spec.model_config.get_text_config())
    # Offloaded activations of the last few layers are still on the card: a line begins behind them.
    least = 6 if spec.config.training.activation_offloading else 2
    first = _multiple(period, least)
    depths = (first, first + max(period, 1))
    if some or period == 0 or spec.layers <= depths[1] + period:
        whole = predict(spec)
        return Price(whole.allocated, whole.process)
    low, high = (predict(_shallow(spec, depth)) for depth in depths)
    return _price(spec, high, [(low, (spec.layers - depths[1]) / period)])


@dataclasses.dataclass(frozen=True)
class Split:
    """Prices of a run of which some layers are recomputed and the others keep their activations, for any number of
    either: from three traces, of a few layers of both kinds, of one period less of these, and of those."""

    spec: RunSpec
    each: int
    period: int
    most: Prediction
    fewer_recomputed: Prediction
    fewer_kept: Prediction

    @classmethod
    def of(cls, spec: RunSpec) -> Split | None:
        """None where layers do not repeat evenly, or are so few that a whole trace is no dearer."""
        period = _period(spec.model_config.get_text_config())
        each = _multiple(period, 2) + period
        if period == 0 or spec.layers <= 2 * each:
            return None
        numbers = ((each, each), (each - period, each), (each, each - period))
        traces = [predict(_shallow(spec, recomputed + kept, recomputed)) for recomputed, kept in numbers]
        return cls(spec, each, period, *traces)

    def price(self, recomputed: int) -> Price:
        """The peak with the first `recomputed` layers recomputed, at least one, and at least one kept."""
        kept = self.spec.layers - recomputed
        lower = [(self.fewer_recomputed, recomputed), (self.fewer_kept, kept)]
        return _price(self.spec, self.most, [(trace, (count - self.each) / self.period) for trace, count in lower])


def _price(spec: RunSpec, high: Prediction, lower: list[tuple[Prediction, float]]) -> Price:
    """The worst phase of `high` with its difference from each of the lower traces so many times: another phase may be
    the worst where there are more layers."""
    allocated = max(
        int(peak + sum((peak - low.peaks[phase]) * times for low, times in lower))
        for phase, peak in high.peaks.items()
        if all(phase in low.peaks for low, _ in lower)
    )
    # What the allocator keeps beside is no straight line; that of the deeper trace stands for it.
    kept = high.reserved - high.allocated
    return Price(allocated, allocated + kept + context_bytes(spec.device))


def _multiple(period: int, least: int) -> int:
    return -(-least // max(period, 1)) * max(period, 1)


def _shallow(spec: RunSpec, layers: int, recomputed: int | None = None) -> RunSpec:
    """The run with its first layers alone, of which the first `recomputed` are, where that is given."""
    config = copy.deepcopy(spec.model_config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    for name in LISTS:
        if isinstance(getattr(text, name, None), list):
            setattr(text, name, getattr(text, name)[:layers])
    shallow = dataclasses.replace(spec, model_config=config)
    if recomputed is None:
        return shallow
    training = spec.config.training.model_copy(update={"gradient_checkpointing": recomputed})
    return dataclasses.replace(shallow, config=spec.config.model_copy(update={"training": training}))


def _period(text: PretrainedConfig) -> int:
    """After how many layers their kinds repeat; 0 where they do not."""
    if getattr(text, "first_k_dense_replace", 0) or getattr(text, "decoder_sparse_step", 1) != 1:
        return 0
    if getattr(text, "mlp_only_layers", None):
        return 0
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        return 1
    for period in range(1, len(kinds) // 2 + 1):
        if all(a == b for a, b in zip(kinds, kinds[period:], strict=False)):
            return period
    return 0
