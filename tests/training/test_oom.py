"""A batch that does not fit is split by rows, and everything but its memory is what it was."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from assembly import Assembly, assemble
from rich.console import Console
from transformers import TrainerCallback

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import DoesNotFit

STILL = ["training.learning_rate=1e-30", "training.max_grad_norm=1e9", "data.eval=null"]
FOUR = ["training.micro_batch_size=4", "training.gradient_accumulation_steps=3", "lora.dropout=0.3", *STILL]
WORDS = ["red", "green", "blue", "seven", "twelve", "north", "south", "glass"]


class Backward(torch.autograd.Function):
    """The identity; its backward pass asks for more memory than there is, where it is told to."""

    @staticmethod
    def forward(ctx, hidden, ask):
        ctx.ask = ask
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient):
        ctx.ask(gradient)
        return gradient, None


def lack_memory(
    model: torch.nn.Module, where: str, above: int, when: Callable[[], bool] = lambda: True, layer: int = 1
) -> list[int]:
    """From now on a batch of more rows than `above` does not fit, in the forward or backward pass of a layer. The rows
    of each that did not fit are entered into the list."""
    failed = []

    def ask(tensor: torch.Tensor) -> None:
        if len(tensor) > above and when():
            failed.append(len(tensor))
            torch.empty(2**58)

    def before(module, args):
        if where == "forward":
            ask(args[0])
            return None
        return (Backward.apply(args[0], ask), *args[1:]) if args[0].requires_grad else None

    model.get_base_model().model.layers[layer].register_forward_pre_hook(before)
    return failed


def in_second(assembly: Assembly) -> Callable[[], bool]:
    """Whether the pass that is made is one over rows of the second micro batch of an update."""
    trainer, pass_over, seen = assembly.trainer, assembly.trainer.pass_over, []

    def watching(model, inputs, count):
        seen[:] = [inputs["input_ids"][0].tolist()]
        return pass_over(model, inputs, count)

    trainer.pass_over = watching
    return lambda: any(seen[0] in micro.inputs["input_ids"].tolist() for micro in trainer.update.micro_batches[1:2])


class Keeper(TrainerCallback):
    """Gradients of each update, and the random numbers that follow it."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly, self.gradients, self.randomness = assembly, [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.gradients.append(self.assembly.gradients())
        self.randomness.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))


def trained(
    config: Path, *overrides: str, lacking: Callable[[Assembly], None] | None = None
) -> tuple[Assembly, Keeper]:
    """A run; `lacking` has its memory run out."""
    assembly = assemble(config, *overrides)
    assembly.model.float()
    keeper = Keeper(assembly)
    assembly.trainer.add_callback(keeper)
    if lacking:
        lacking(assembly)
    assembly.trainer.train()
    return assembly, keeper


Run = tuple[Assembly, Keeper]


def require_equal(found: Run, expected: Run, tolerance: float = 1e-5) -> None:
    """Gradients to rounding, random numbers to the bit, and every count and figure."""
    (one, seen), (other, wanted) = found, expected
    assert len(seen.gradients) == len(wanted.gradients) > 0
    for left, right in zip(seen.gradients, wanted.gradients, strict=True):
        scale = max(float(tensor.abs().max()) for tensor in right.values())
        assert scale > 0
        for name in right:
            torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance * scale)
    assert seen.randomness == wanted.randomness
    for name in ("rows_seen", "tokens_seen", "trained_seen", "_total_train_tokens"):
        assert int(getattr(one.trainer, name, 0)) == int(getattr(other.trainer, name, 0)), name
    logs = [assembly.trainer.state.log_history for assembly in (one, other)]
    clock = ("runtime", "per_second", "step_time")
    for left, right in zip(*logs, strict=True):
        assert left.keys() == right.keys()
        for name in (name for name in right if not name.endswith(clock)):
            assert left[name] == pytest.approx(right[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("where", "overrides"),
    [
        ("forward", []),
        ("backward", []),
        ("backward", ["training.gradient_checkpointing=false", "training.loss_kernel=full_logits"]),
        ("backward", ["data.packing=true", "data.max_length=72", "training.micro_batch_size=2"]),
    ],
    ids=["forward", "backward", "whole", "packed"],
)
def test_a_split_update_is_the_unsplit_one(config_file, where, overrides):
    """The second micro batch of the update fails, at four rows and at two; the first is then done again."""
    keys = [*FOUR, "training.max_steps=1", *overrides]
    expected = trained(config_file, *keys)
    failed: list[int] = []

    def lacking(assembly: Assembly) -> None:
        failed.append(lack_memory(assembly.model, where, 1, in_second(assembly)))

    found = trained(config_file, *keys, lacking=lacking)
    sizes = [2] if "data.packing=true" in overrides else [4, 2]
    assert failed[0][: len(sizes)] == sizes
    assert found[0].trainer.guards.splits == len(sizes)
    require_equal(found, expected)


def test_in_double_precision_it_is_the_same_to_the_last_digits(config_file):
    def doubled(assembly: Assembly) -> None:
        assembly.model.double()

    def lacking(assembly: Assembly) -> None:
        doubled(assembly)
        lack_memory(assembly.model, "backward", 2)

    keys = [*FOUR, "training.max_steps=1", "quantization.type=none", "training.noise_scale=false"]
    expected, found = (trained(config_file, *keys, lacking=each) for each in (doubled, lacking))
    require_equal(found, expected, 1e-12)


def rows_of(folder: Path, method: str) -> list[str]:
    """Overrides of a run of that method on rows of its own."""
    path = folder / f"{method}.jsonl"
    pairs = [{"prompt": f"Say {word}.", "chosen": word, "rejected": f"{word} {word}"} for word in WORDS]
    asked = [{"prompt": f"Say {word}.", "answer": word} for word in WORDS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (pairs if method == "dpo" else asked)), encoding="utf-8")
    keys = [f"training.method={method}", f"data.train={path}", "training.micro_batch_size=4"]
    if method == "dpo":
        return keys
    rollout = "rollout={num_generations: 4, max_completion_length: 6, trial_prompts: 0}"
    return [*keys, rollout, "rewards=[{type: length, max: 30, unit: characters}]"]


@pytest.mark.parametrize(
    ("method", "where"), [("dpo", "forward"), ("dpo", "backward"), ("rloo", "backward"), ("grpo", "forward")]
)
def test_pairs_and_completions_are_split_by_the_same_rule(config_file, tmp_path, method, where):
    steps = "training.max_steps=1" if method == "dpo" else "training.max_steps=2"
    keys = [*rows_of(tmp_path, method), "lora.dropout=0.3", steps, *STILL]
    expected = trained(config_file, *keys)
    assert expected[0].trainer.loss_share is None

    def lacking(assembly: Assembly) -> None:
        # Sampling, and the log-probabilities before the update, are made without gradients.
        lack_memory(assembly.model, where, 2, torch.is_grad_enabled if where == "forward" else lambda: True)

    found = trained(config_file, *keys, lacking=lacking)
    assert found[0].trainer.guards.splits >= 2
    require_equal(found, expected)


def test_the_noise_scale_leaves_split_updates_out_and_checkpoints_have_the_counts(config_file):
    keys = [*FOUR, "training.max_steps=2", "training.save_steps=2"]
    noted = []

    def lacking(assembly: Assembly) -> None:
        class Note(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                noted.append(assembly.trainer.noise.average.sums.clone())

        assembly.trainer.add_callback(Note())
        lack_memory(assembly.model, "backward", 2, lambda: assembly.trainer.state.global_step > 0)

    assembly, _ = trained(config_file, *keys, lacking=lacking)
    assert torch.equal(*noted) and noted[0][0] > 0
    assert assembly.trainer.noise._norms == [] and assembly.trainer.noise._counts == []
    saved = Path(assembly.trainer.args.output_dir) / "checkpoint-2" / "trainer_state.json"
    state = json.loads(saved.read_text(encoding="utf-8"))["stateful_callbacks"]
    assert state["Guards"]["attributes"]["splits"] == assembly.trainer.guards.splits == 3


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_an_evaluation_is_split_to_the_same_figures(config_file, tmp_path, method):
    keys = [*FOUR, *(rows_of(tmp_path, method) if method == "dpo" else []), "data.eval=null", "data.eval_fraction=0.5"]
    assembly = assemble(config_file, *keys)
    expected = assembly.trainer.held_out(assembly.trainer.eval_dataset)
    failed = lack_memory(assembly.model, "forward", 2)
    found = assembly.trainer.held_out(assembly.trainer.eval_dataset)
    assert failed
    assert assembly.trainer.guards.splits == len(failed)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_completions_sampled_in_halves_are_those_of_the_whole(config_file, tmp_path, method):
    """With dropout on, as TRL samples while it trains; random numbers end where the whole leaves them."""
    assembly = assemble(config_file, *rows_of(tmp_path, method), "lora.dropout=0.3", *STILL)
    trainer, prompts = (
        assembly.trainer,
        [prompt.input_ids[: 9 + at] for at, prompt in enumerate(assembly.data.train.prompts)],
    )
    trainer.model.train()
    trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    found = []
    for above in (99, 2):
        failed = lack_memory(assembly.model, "forward", above)
        torch.manual_seed(3)
        found.append((trainer.sample(prompts), torch.get_rng_state().tolist()))
    assert failed[0] == 8 and trainer.guards.splits == len(failed)
    assert found[0] == found[1]
    assert len({tuple(ids) for ids in found[0][0]}) > 1
    assert trainer.model.is_gradient_checkpointing


def test_one_completion_that_does_not_fit_ends_the_run_with_advice(config_file, tmp_path):
    with pytest.raises(DoesNotFit) as caught:
        keys = [*rows_of(tmp_path, "rloo"), *STILL]
        trained(config_file, *keys, lacking=lambda assembly: lack_memory(assembly.model, "forward", 0))
    assert caught.value.message.startswith("out of memory in update 1, where completions are sampled: ")
    assert caught.value.hint == "lower rollout.max_completion_length or rollout.num_generations"


def test_one_row_that_does_not_fit_ends_the_run_by_name(config_file, rows_file):
    with pytest.raises(DoesNotFit) as caught:
        trained(config_file, *FOUR, lacking=lambda assembly: lack_memory(assembly.model, "forward", 0))
    assert caught.value.message.startswith(f"out of memory in update 1: {rows_file} line ")
    assert "does not fit, even alone: " in caught.value.message
    assert "can't allocate memory" in caught.value.message
    assert caught.value.hint.startswith("lower data.max_length")


def test_another_error_is_not_taken_for_a_lack_of_memory(config_file):
    def broken(assembly: Assembly) -> None:
        def fail(*_):
            raise RuntimeError("broken")

        assembly.model.get_base_model().model.layers[0].register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="broken"):
        trained(config_file, *FOUR, lacking=broken)


def test_splits_are_said_counted_and_followed_by_advice(config_file, monkeypatch):
    """Through the whole line: notes at once, advice after the third, counts in the report."""
    build = pipeline.build_trainer

    def building(*args):
        trainer = build(*args)
        lack_memory(trainer.model, "forward", 1, lambda: trainer.guards is not None)
        return trainer

    monkeypatch.setattr(pipeline, "build_trainer", building)
    out = io.StringIO()
    config = load_config(config_file, ["training.max_steps=4", "data.eval=null", "training.rehearsal=false"])
    report = pipeline.train(config, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert report["guards"]["splits"] == 8
    assert "8 times a batch did not fit and was split" in report["notes"]
    said = [line for line in lines if "a batch of 2 does not fit" in line]
    assert len(said) == 3
    assert said[0].startswith("update 1: ") and said[0].endswith("it is done 1 at a time")
    advised = [line for line in lines if "splits so far" in line]
    assert advised == ["4 splits so far; no change takes 10% less: take a smaller model or a larger card"]
    assert lines.index(said[-1]) < lines.index(advised[0])
