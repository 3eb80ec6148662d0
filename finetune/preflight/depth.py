"""A run priced from two shallow traces: what a layer adds is a straight line, so two depths say all of it.

A full trace of a 7B model takes a second or two; advice and the search for the largest batch need a dozen of them.
tests/preflight/test_depth.py holds the line against full traces.
"""

from __future__ import annotations

import copy
import dataclasses

from transformers import PretrainedConfig

from finetune.preflight.hardware import context_bytes
from finetune.preflight.prediction import predict
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
    period = _period(spec.model_config.get_text_config())
    layers = spec.model_config.get_text_config().num_hidden_layers
    # Offloaded activations of the last few layers are still on the card: a line begins behind them.
    least = 6 if spec.config.training.activation_offloading else 2
    first = _multiple(period, least)
    depths = (first, first + max(period, 1))
    if period == 0 or layers <= depths[1] + period:
        whole = predict(spec)
        return Price(whole.allocated, whole.process)
    low, high = (predict(_shallow(spec, depth)) for depth in depths)
    allocated = max(_line(depths, pair, layers) for pair in _by_phase(low.peaks, high.peaks))
    # What the allocator keeps beside is no straight line; that of the deeper trace stands for it.
    kept = high.reserved - high.allocated
    return Price(allocated, allocated + kept + context_bytes(spec.device))


def _multiple(period: int, least: int) -> int:
    return -(-least // max(period, 1)) * max(period, 1)


def _by_phase(low: dict[str, int], high: dict[str, int]) -> list[tuple[int, int]]:
    """Peaks of each phase at both depths: another phase may be the highest where there are more layers."""
    return [(low[phase], high[phase]) for phase in high if phase in low]


def _line(depths: tuple[int, int], values: tuple[int, int], layers: int) -> int:
    each = (values[1] - values[0]) / (depths[1] - depths[0])
    return int(values[1] + each * (layers - depths[1]))


def _shallow(spec: RunSpec, layers: int) -> RunSpec:
    config = copy.deepcopy(spec.model_config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    for name in LISTS:
        if isinstance(getattr(text, name, None), list):
            setattr(text, name, getattr(text, name)[:layers])
    return dataclasses.replace(spec, model_config=config)


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
