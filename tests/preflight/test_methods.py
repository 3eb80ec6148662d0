"""What is particular to dpo, rloo and grpo: a reference without a copy, a cache, a rollout for each update."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from families import write_family
from repo import REPO
from rich.console import Console
from traced import CARD, CPU, described, highest, peaks
from transformers import masking_utils
from transformers.generation import GenerationMixin
from transformers.generation import utils as generation
from trl.trainer import utils

from finetune.config import RunConfig, load_config
from finetune.preflight import find_card, predict, preflight, sampling, show, solve
from finetune.preflight.changes import changed, words
from finetune.preflight.prediction import replay
from finetune.preflight.preference import REFERENCE
from finetune.preflight.rollout import OLD, Picked
from finetune.preflight.sampling import DECODING, PREFILL
from finetune.preflight.step import Batch
from finetune.preflight.tape import ADAPTERS, CACHE, CHECKPOINTS, GRADIENTS, WEIGHTS
from finetune.preflight.trace import trace, worst_batch
from finetune.spec import Device, RunSpec, describe

WIDE = {
    "vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 6,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
PLAN = REPO / "configs" / "qlora_r16_qwen2.5-7b.yaml"
PASSES = "training.gradient_accumulation_steps="


def tape_of(folder: Path, method: str, *settings: str, **options: Any) -> Any:
    return trace(described(folder, "llama3", f"training.method={method}", *settings, **options))


def phases(tape: Any) -> set[str]:
    return {phase for _, phase in tape.marks}


def plan(folder: Path, method: str, *overrides: str, card: str = "24GiB") -> RunSpec:
    """A model of six wide layers, which is traced sooner than a whole one, under the shipped plan of another."""
    model = write_family("qwen2", folder / "model", **WIDE)
    rewards = ["rewards=[{type: length, max: 9}]"] if method in ("rloo", "grpo") else []
    own = [f"model.name_or_path={model}", "model.weights=random", f"training.method={method}", "data.packing=false"]
    return describe(load_config(PLAN, [*own, *rewards, *overrides]), find_card(card))


def tight(spec: RunSpec, share: float) -> RunSpec:
    """The same on a card that has `share` of what the run takes."""
    memory = int(share * predict(spec).process)
    return dataclasses.replace(spec, device=dataclasses.replace(spec.device, memory_bytes=memory))


def test_each_method_has_the_passes_that_trl_makes(tmp_path: Path) -> None:
    rollout = {PREFILL, DECODING}
    found = {method: phases(tape_of(tmp_path, method)) for method in ("sft", "dpo", "rloo", "grpo")}
    own = {method: found[method] - found["sft"] for method in found}
    assert own == {"sft": set(), "dpo": {REFERENCE}, "rloo": {*rollout, OLD, REFERENCE}, "grpo": {*rollout, REFERENCE}}
    assert REFERENCE not in phases(tape_of(tmp_path, "rloo", "training.beta=0"))


def test_the_worst_batch_of_each_method(tmp_path: Path) -> None:
    def worst(*settings: str) -> Batch:
        return worst_batch(described(tmp_path, "llama3", *settings))

    assert worst("training.method=dpo") == Batch(4, 64, padded=True)
    assert worst("training.method=dpo", "training.micro_batch_size=1") == Batch(2, 64, padded=True)
    assert worst("training.method=rloo") == Batch(2, 64, padded=True, prompt_tokens=48)
    assert worst("training.method=grpo", "training.micro_batch_size=1") == Batch(1, 64, padded=True, prompt_tokens=48)


def test_the_reference_is_the_same_weights(tmp_path: Path) -> None:
    """One copy of the weights and one adapter, whatever the method."""
    tapes = {method: tape_of(tmp_path, method) for method in ("sft", "dpo", "grpo")}
    for cause in (WEIGHTS, ADAPTERS):
        assert highest(tapes["dpo"], cause) == highest(tapes["sft"], cause)
    assert highest(tapes["grpo"], ADAPTERS) == highest(tapes["sft"], ADAPTERS)


def test_a_pair_is_two_rows(tmp_path: Path) -> None:
    pairs, rows = (highest(tape_of(tmp_path, method), CHECKPOINTS) for method in ("dpo", "sft"))
    assert pairs == 2 * rows


def test_the_policys_activations_are_there_while_the_reference_reads(tmp_path: Path) -> None:
    """All of them: a layer more is a layer more in the reference's peak, where nothing is recomputed."""
    kept = "training.gradient_checkpointing=false"
    two, four = (
        peaks(tape_of(tmp_path, "dpo", kept, changes={"num_hidden_layers": layers}))[REFERENCE] for layers in (2, 4)
    )
    grown = peaks(tape_of(tmp_path, "dpo", changes={"num_hidden_layers": 4}))[REFERENCE]
    assert four - two > 2 * (grown - two)


@pytest.mark.parametrize(("rows", "passes"), [(2, 2), (1, 4), (4, 1)])
def test_the_cache_holds_every_completion_of_an_update(tmp_path: Path, rows: int, passes: int) -> None:
    """Keys and values of 2 layers x 4 completions x 63 tokens (nobody reads the last) x 2 heads x 16 x 4 bytes, however
    they are split into passes; of one layer, one of the two is there twice while it grows by a token."""
    token = 4 * 2 * 16 * 4
    tape = tape_of(tmp_path, "grpo", f"{PASSES}{passes}", f"training.micro_batch_size={rows}")
    assert highest(tape, CACHE) == (4 * 63 + 62) * token
    twice = tape_of(tmp_path, "grpo", f"{PASSES}{2 * passes}", f"training.micro_batch_size={rows}")
    assert highest(twice, CACHE) == 2 * highest(tape, CACHE)


def test_a_window_bounds_the_cache_of_its_layers(tmp_path: Path) -> None:
    """The last 31 tokens are kept, but in the memory of the whole prompt until the next step copies them."""
    spec = described(tmp_path, "mistral", "training.method=grpo", changes={"sliding_window": 32})
    assert highest(trace(spec), CACHE) == (4 * 48 + 31) * 4 * 2 * 16 * 4


@pytest.mark.parametrize("family", ["llama3", "gemma3_text", "mixtral"])
def test_the_last_steps_of_decoding_stand_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """Every step run: the same peak of tensors, but for a few numbers a token; the same operations, but for attention
    to what is not there yet."""
    settings = ["training.method=grpo", f"{PASSES}4", "rollout.max_completion_length=48"]
    spec = described(tmp_path, family, *settings, changes={"head_dim": 64, "sliding_window": 24}, device=CARD)
    few = trace(spec)
    monkeypatch.setattr(sampling, "RUN", 1000)
    every = trace(spec)
    assert len(every.events) > 5 * len(few.events)
    assert peaks(few)[DECODING] == pytest.approx(peaks(every)[DECODING], rel=2e-3)
    assert peaks(few)[PREFILL] == peaks(every)[PREFILL]
    if family != "mixtral":  # whose experts' grouped products are not counted
        assert few.decoding_flops == pytest.approx(every.decoding_flops, rel=0.05)
    short, whole = (replay(tape, spec).reserved for tape in (few, every))
    assert short == pytest.approx(whole, rel=0.05), "what the allocator keeps of a cache that grows"


def test_gradients_are_not_there_while_completions_are_sampled(tmp_path: Path) -> None:
    """And are, of the micro batch before, at the second: with one pass they are not."""
    tape = tape_of(tmp_path, "rloo", f"{PASSES}4")
    starts, phase, alive, found = dict(tape.marks), "load", 0, {}
    for index, event in enumerate(tape.events):
        phase = starts.get(index, phase)
        number = event if event >= 0 else ~event
        alive += (1 if event >= 0 else -1) * (tape.causes[number] == GRADIENTS)
        found[phase] = max(found.get(phase, 0), alive)
    assert found[PREFILL] == found[DECODING] == found[OLD] == 0
    assert found["forward"] > 0


def test_decoding_grows_with_completions_and_prefill_with_prompts(tmp_path: Path) -> None:
    def both(completion: int) -> tuple[int, int]:
        found = peaks(tape_of(tmp_path, "grpo", f"rollout.max_completion_length={completion}", device=CARD))
        return found[PREFILL], found[DECODING]

    short, long = both(8), both(56)
    assert short[0] > long[0]
    assert short[1] == pytest.approx(long[1], rel=1e-3), "the same tokens in all"


def test_on_a_card_the_head_reads_only_completions(tmp_path: Path) -> None:
    """A tile of 2 x 16 tokens and 32,768 words in 16 bits; where there is no Triton, of all tokens, in float32."""

    def tiles(device: Device) -> set[int]:
        tape = tape_of(tmp_path, "grpo", device=device)
        return {size for size, op in zip(tape.sizes, tape.ops, strict=True) if "aten.empty.memory_format" in op}

    assert tiles(CARD) == {2 * 16 * 32_768 * 2}
    assert tiles(CPU) == {2 * 63 * 32_768 * 4}


def test_picked_rows_are_as_many_as_a_mask_picks() -> None:
    """And their gradient as long as what they were picked from, as on real tensors."""
    found = {}
    for device in ("cpu", "meta"):
        x = torch.ones(2, 5, 8, device=device, requires_grad=True)
        mask = (torch.arange(10) % 3 == 0).view(2, 5).to(device)
        with Picked(4) if device == "meta" else contextlib.nullcontext():
            picked, labels = x[mask], torch.ones(2, 5, dtype=torch.long, device=device)[mask]
        (gradient,) = torch.autograd.grad(picked.sum(), x)
        found[device] = picked.shape, labels.shape, gradient.shape
    assert found["meta"] == found["cpu"]


@pytest.mark.parametrize("method", ["dpo", "rloo"])
def test_a_trace_leaves_libraries_and_configuration_as_they_were(tmp_path: Path, method: str) -> None:
    """The model's configuration too: a model built from it afterwards samples with a cache."""
    spec = described(tmp_path, "mixtral", f"training.method={method}", device=CARD)
    modules = [utils, generation, masking_utils, GenerationMixin]
    before, config = [dict(vars(module)) for module in modules], spec.model_config.to_dict()
    trace(spec)
    assert [dict(vars(module)) for module in modules] == before
    assert spec.model_config.to_dict() == config


def test_one_token_completions_are_not_decoded(tmp_path: Path) -> None:
    tape = tape_of(tmp_path, "grpo", "rollout.max_completion_length=1")
    assert DECODING not in phases(tape)
    assert tape.decoding_flops == 0


def test_sampling_and_scoring_are_counted_once_for_an_update(tmp_path: Path) -> None:
    """2 operations a weight and token forward, 2 again where it is recomputed and 2 back: to the share that attention
    adds to products."""
    specs = {method: plan(tmp_path, method, "quantization.type=none") for method in ("sft", "dpo", "grpo", "rloo")}
    found = {method: predict(spec) for method, spec in specs.items()}
    training, spec = specs["sft"].config.training, specs["sft"]
    tied = next(t.elements for t in spec.tensors if "embed_tokens" in t.name)
    tokens = training.micro_batch_size * spec.config.data.max_length
    forward = 2 * (spec.parameters.total - tied) * tokens
    assert found["dpo"].flops == pytest.approx(2 * found["sft"].flops + 2 * forward, rel=0.05)
    assert found["rloo"].flops - found["grpo"].flops == pytest.approx(forward, rel=0.1), "the old log-probabilities"
    decoded = training.micro_batch_size * (256 - 1)
    each = 2 * (spec.parameters.total - tied) + 4 * 2048 * WIDE["hidden_size"] * WIDE["num_hidden_layers"]
    assert found["grpo"].decoding_flops == pytest.approx(decoded * each, rel=0.02), "products, and attention to 2,048"


def test_completions_sampled_together_are_what_advice_makes_fewer(tmp_path: Path) -> None:
    spec = tight(plan(tmp_path, "rloo", f"{PASSES}16", "lora.r=8"), 0.7)
    verdict = preflight(spec)
    assert verdict.prediction.phase in (PREFILL, DECODING)
    assert not verdict.fits
    assert "training.gradient_accumulation_steps" in verdict.changes[0].changes
    for change in verdict.changes:
        config = RunConfig.model_validate(changed(spec.config, change.changes).model_dump())
        assert preflight(describe(config, spec.device)).fits, change.text


def test_shorter_completions_leave_prompts_their_room(tmp_path: Path) -> None:
    config = plan(tmp_path, "grpo").config
    change = {"rollout.max_completion_length": 128}
    assert changed(config, change).data.max_length == config.data.max_length - 128
    assert words(config, change) == (
        f"rollout.max_completion_length=128 data.max_length={config.data.max_length - 128}"
    )


def test_what_is_solved_for_can_be_configured(tmp_path: Path) -> None:
    spec = tight(plan(tmp_path, "grpo", f"{PASSES}3", "rollout.num_generations=6"), 1.2)
    rows, tokens = solve(spec, "micro_batch_size"), solve(spec, "seq_len")
    for change in ({"training.micro_batch_size": rows}, {"data.max_length": tokens}):
        config = RunConfig.model_validate(changed(spec.config, change).model_dump())
        assert predict(describe(config, spec.device)).process <= spec.device.memory_bytes


def test_shown_to_people_with_what_sampling_takes_at_least(tmp_path: Path) -> None:
    verdict = preflight(plan(tmp_path, "rloo", card="RTX 4090"), examples=64)
    buffer = io.StringIO()
    show(verdict, Console(file=buffer, width=150))
    text = buffer.getvalue()
    rows = verdict.spec.config.training.effective_batch_size
    assert f"rollout     {rows} completions at once, 256 tokens behind prompts of 1,792" in text
    assert "kv cache" in text
    read = sum(t.bytes for t in verdict.spec.tensors if "embed_tokens" not in t.name) * 255
    assert verdict.duration.sampling == pytest.approx(read / 1008e9)
    assert re.search(r"; sampling completions adds \d\S* s or more to each", text.replace("\n", " "))
    assert verdict.to_json()["time"]["sampling_seconds_per_update"] == verdict.duration.sampling
    assert verdict.updates.total == 64 * 8 / rows, "each prompt is answered eight times"
    unknown = preflight(plan(tmp_path, "rloo", card="80GiB"))
    assert unknown.to_json()["time"]["sampling_seconds_per_update"] is None
    assert preflight(plan(tmp_path, "dpo", card="RTX 4090")).duration.sampling == 0
