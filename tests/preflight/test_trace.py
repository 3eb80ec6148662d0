"""A tape, whatever is traced: every byte has a cause, a phase and an end, and the trace leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from traced import BATCH, CARD, CPU, described, highest, left, peak, peaks
from transformers import masking_utils
from transformers.integrations import moe
from trl.kernels import chunked_logprob

from finetune.preflight import tape as tapes
from finetune.preflight.prediction import replay
from finetune.preflight.step import Batch, Loop
from finetune.preflight.tape import ADAPTERS, CHECKPOINTS, OPTIMISER, WEIGHTS, WORKSPACE
from finetune.preflight.trace import trace, worst_batch

PHASES = {"load", "batch", "forward", "layer forward", "loss backward", "layer backward", "optimiser step"}
CAUSES = {
    "weights", "adapters", "gradients", "optimiser", "batch", "checkpoints", "layer activations", "logits and loss",
    "dequantised weight", "workspace",
}  # fmt: skip
RUNS = [
    ("llama3", []),
    ("mixtral", ["training.loss_kernel=fused_linear"]),
    ("gemma2", ["training.gradient_checkpointing=false", "training.optimizer=paged_adamw_8bit"]),
    ("qwen3", ["quantization.type=none", "training.activation_offloading=true"]),
]


def name(value: object) -> str | None:
    return " ".join(setting.split(".")[1] for setting in value) or "plain" if isinstance(value, list) else None


@pytest.mark.parametrize(("family", "settings"), RUNS, ids=name)
def test_what_is_born_dies_or_lives_to_the_end(tmp_path: Path, family: str, settings: list[str]) -> None:
    spec = described(tmp_path, family, *settings, device=CARD)
    tape = trace(spec, BATCH)
    births = [event for event in tape.events if event >= 0]
    assert births == list(range(len(tape.sizes)))
    lasting = left(tape)  # raises where something dies that does not live
    assert set(lasting) - {OPTIMISER} == {WEIGHTS, ADAPTERS, WORKSPACE}  # torch's own optimisers go with the trace
    assert lasting[ADAPTERS] == sum(tensor.bytes for tensor in spec.tensors if tensor.trainable)
    frozen = sum(tensor.bytes for tensor in spec.tensors if not tensor.trainable)
    shared = 1024 * sum(tensor.name.endswith("nested_code") for tensor in spec.tensors)
    assert frozen - shared <= lasting[WEIGHTS] <= frozen


@pytest.mark.parametrize(("family", "settings"), RUNS, ids=name)
@pytest.mark.parametrize("device", [CPU, CARD], ids=["cpu", "card"])
def test_causes_sum_to_the_peak(tmp_path: Path, family: str, settings: list[str], device: Any) -> None:
    if device is CPU and "training.optimizer=paged_adamw_8bit" in settings:
        settings = [*settings, "training.optimizer=adamw_8bit"]
    spec = described(tmp_path, family, *settings, device=device)
    tape = trace(spec, BATCH)
    found = replay(tape, spec)
    assert sum(found.breakdown.values()) == found.allocated >= peak(tape)
    assert {phase for _, phase in tape.marks} == PHASES == set(tape.phases)
    assert set(tape.causes) <= CAUSES and set(found.breakdown) <= CAUSES
    assert found.phase in PHASES and found.operation
    if device is CPU:
        assert found.allocated == peak(tape)


def test_a_layer_adds_the_same_at_every_depth(tmp_path: Path) -> None:
    """Checkpoints, block constants, adapters and their state: all that a layer leaves is the same for each."""
    found = {
        layers: peaks(trace(described(tmp_path, changes={"num_hidden_layers": layers}, device=CARD), BATCH))
        for layers in (2, 3, 4, 8)
    }
    for phase in PHASES:
        two, three, four, eight = (of[phase] for of in found.values())
        assert 0 < three - two == four - three == (eight - four) / 4, phase


def test_checkpoints_grow_with_depth_and_activations_do_not(tmp_path: Path) -> None:
    tapes_ = [trace(described(tmp_path, changes={"num_hidden_layers": layers}), BATCH) for layers in (2, 6)]
    hidden = BATCH.rows * BATCH.tokens * 64 * 4
    assert highest(tapes_[1], CHECKPOINTS) - highest(tapes_[0], CHECKPOINTS) == 4 * hidden
    assert highest(tapes_[1], "layer activations") == highest(tapes_[0], "layer activations")


def test_offloaded_checkpoints_do_not_grow_with_depth(tmp_path: Path) -> None:
    def most(layers: int, offloading: str) -> int:
        setting = f"training.activation_offloading={offloading}"
        spec = described(tmp_path, "llama3", setting, changes={"num_hidden_layers": layers}, device=CARD)
        return highest(trace(spec, BATCH), CHECKPOINTS)

    hidden = BATCH.rows * BATCH.tokens * 64 * 2
    assert most(12, "true") == most(8, "true") <= 7 * hidden
    assert most(12, "false") == most(8, "false") + 4 * hidden


def test_what_accumulates_finds_gradients_in_place(tmp_path: Path) -> None:
    """At the top of the second backward pass the gradients of the first are there."""
    once, often = (
        peaks(trace(described(tmp_path, "llama3", f"training.gradient_accumulation_steps={steps}"), BATCH))
        for steps in (1, 4)
    )
    spec = described(tmp_path)
    assert often["loss backward"] - once["loss backward"] == spec.parameters.trainable * 4
    assert often["optimiser step"] == once["optimiser step"]


@pytest.mark.parametrize("settings", [[], ["quantization.compute_dtype=bfloat16"]], ids=["float32", "autocast"])
@pytest.mark.parametrize("family", ["llama3", "gemma2", "mixtral", "phi3"])
def test_remembered_shapes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, settings: list[str]
) -> None:
    spec = described(tmp_path, family, *settings, "training.gradient_checkpointing=false", device=CARD)
    remembering = trace(spec, BATCH)
    monkeypatch.setattr(tapes, "Shapes", lambda: lambda operation, args, kwargs: operation(*args, **kwargs))
    assert trace(spec, BATCH) == remembering


def test_the_worst_batch_is_as_the_configuration_says(tmp_path: Path) -> None:
    assert worst_batch(described(tmp_path)) == Batch(2, 64, padded=True)
    assert worst_batch(described(tmp_path, batch=Batch(1, 64))) == Batch(1, 64)
    assert worst_batch(described(tmp_path, batch=Batch(2, 64, packed=True))) == Batch(2, 64, packed=True)


def test_batches_hold_what_the_libraries_look_at() -> None:
    padded = Batch(2, 5, padded=True).tensors("cpu")
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert padded["labels"][1, -1] == -100 and padded["labels"][0, -1] != -100
    packed = Batch(2, 5, packed=True).tensors("cpu")
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 1]] * 2
    assert "attention_mask" not in packed


MODULES = [torch, torch.nn.functional, masking_utils, moe, chunked_logprob]


def state_of(modules: list[ModuleType]) -> list[dict[str, int]]:
    return [{key: id(value) for key, value in vars(module).items()} for module in modules]


def fails(*_: Any, **__: Any) -> torch.Tensor:
    raise ArithmeticError("the loss fails")


@pytest.mark.parametrize("loop", [Loop(), Loop(model_loss=fails)], ids=["done", "failed"])
def test_a_trace_leaves_the_libraries_as_they_were(tmp_path: Path, loop: Loop) -> None:
    spec = described(tmp_path, "mixtral", "quantization.compute_dtype=bfloat16", device=CARD)
    functions, numbers = state_of(MODULES), torch.get_rng_state()
    if loop.model_loss:
        with pytest.raises(ArithmeticError):
            trace(spec, BATCH, loop=loop)
    else:
        trace(spec, BATCH, loop=loop)
    assert state_of(MODULES) == functions
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.ones(2).softmax(0).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def test_two_traces_are_the_same(tmp_path: Path) -> None:
    spec = described(tmp_path, "phi3", "lora.dropout=0.1", device=CARD)
    assert trace(spec, BATCH) == trace(spec, BATCH)
