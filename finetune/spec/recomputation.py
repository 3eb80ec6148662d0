"""Recomputing the activations of some layers only: those that do not fit, and no more.

The first layers are recomputed and the last keep theirs: these are free again before the first recomputation begins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_first(model: PreTrainedModel, layers: int) -> None:
    """Has every switching on of activation checkpointing reach the first `layers` layers of `model` alone."""
    model._set_gradient_checkpointing = functools.partial(_switch, model, layers, model._set_gradient_checkpointing)


def _switch(model: PreTrainedModel, layers: int, switch: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    switch(*args, **kwargs)
    for layer in layers_of(model)[layers:]:
        layer.gradient_checkpointing = False


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers that can be recomputed, in the order in which they are run."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
