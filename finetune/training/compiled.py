"""Layers compiled one by one (regional `torch.compile`): all layers of a kind share one compilation, so that a cold
start takes a minute or two, and not one a layer.

They are compiled in training passes alone: an evaluation, an answer and a proof have other shapes, each of which would
be compiled for a handful of batches. The first passes are the rehearsal's, on the same batches whenever a run begins or
goes on: a compiler chooses by what it sees first, and a resumed run is to be given the same code.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune.errors import ConfigError
from finetune.spec import RunSpec
from finetune.spec.recomputation import layers_of

COMPILERS = ("g++", "clang++", "c++")
OFF = "set training.compile=false"


class CompiledLayers:
    """Compiles the layers of a model in training passes, and knows what the cold start took."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._calls = []
        for layer in layers_of(model):
            layer.compile(dynamic=True)  # rows of other lengths are not compiled again
            self._calls.append((layer, layer._compiled_call_impl))
            layer._compiled_call_impl = None
        self._seconds: list[float] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """What a forward and backward pass runs in."""
        start = time.perf_counter()
        for layer, call in self._calls:
            layer._compiled_call_impl = call
        try:
            yield
        finally:
            for layer, _ in self._calls:
                layer._compiled_call_impl = None
        self._seconds.append(time.perf_counter() - start)

    def notes(self) -> list[str]:
        """The cold start: what the passes took that took three times as long as the others, beyond these."""
        usual = statistics.median(self._seconds) if self._seconds else 0.0
        cold = [seconds for seconds in self._seconds if seconds > 3 * usual]
        extra = sum(cold) - len(cold) * usual
        return [f"compiling the layers took {extra:.0f} s, in {len(cold)} passes"] if extra > 1 else []


def require_compiler(spec: RunSpec) -> None:
    """Raises ConfigError where layers are to be compiled and the machine has no compiler for its device."""
    if not spec.config.training.compile:
        return
    if spec.device.kind == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise ConfigError("training.compile=true needs a C++ compiler, and there is none", f"install g++, or {OFF}")
    if spec.device.kind == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("training.compile=true needs Triton, and there is none", f"pip install triton, or {OFF}")
