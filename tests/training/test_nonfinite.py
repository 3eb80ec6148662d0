"""An update whose loss or gradient is no number is not taken, and the rows that make it so are named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from assembly import Assembly, assemble
from rich.console import Console
from test_oom import rows_of
from transformers import TrainerCallback

from finetune.errors import FinetuneError
from finetune.training import finite

KEYS = ["training.micro_batch_size=3", "training.gradient_accumulation_steps=2", "training.warmup_ratio=0.0"]
KEYS += ["lora.dropout=0.2", "data.eval=null", "training.max_steps=2", "training.noise_scale=false"]


class Spoil(torch.autograd.Function):
    """The identity, whose gradient is infinite where it is told so."""

    @staticmethod
    def forward(ctx, hidden, rows):
        ctx.save_for_backward(rows)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient):
        (rows,) = ctx.saved_tensors
        return torch.where(rows[:, None, None], torch.inf, gradient), None


def spoil(assembly: Assembly, tokens: list[list[int]], what: str = "loss") -> None:
    """Rows that begin with these tokens give a loss, or a gradient, that is no number."""
    base, held = assembly.model.get_base_model(), {}

    def look(module, args):
        ids = args[0]
        held["rows"] = torch.tensor([any(row[: len(bad)] == bad for bad in tokens) for row in ids.tolist()])

    def change(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        rows = held["rows"]
        if not hidden.requires_grad:
            return output
        spoiled = hidden.masked_fill(rows[:, None, None], torch.nan)
        changed = Spoil.apply(hidden, rows) if what == "gradient" else spoiled
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    base.get_input_embeddings().register_forward_pre_hook(look)
    base.model.layers[1].register_forward_hook(change)


def tokens_of(assembly: Assembly, *rows: int) -> list[list[int]]:
    """Tokens of rows of the data."""
    return [assembly.data.train.rows[row].input_ids for row in rows]


class Keeper(TrainerCallback):
    """The adapter and the optimiser's state before and after each update."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly, self.adapters, self.states, self.gradients = assembly, [], [], []

    def _keep(self) -> None:
        self.adapters.append(self.assembly.adapter())
        state = self.assembly.trainer.optimizer.state_dict()["state"]
        self.states.append({(at, key): torch.as_tensor(v).clone() for at, s in state.items() for key, v in s.items()})

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self._keep()

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        tensors = self.assembly.trained().items()
        self.gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in tensors})

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._keep()


def run(config: Path, *overrides: str, spoiling: Callable[[Assembly], None] | None = None) -> tuple[Assembly, Keeper]:
    """A run that says what it sees beside its configuration."""
    assembly = assemble(config, *KEYS, *overrides)
    keeper = Keeper(assembly)
    assembly.trainer.add_callback(keeper)
    assembly.trainer.guards.tell(Console(file=io.StringIO(), width=300), config.parent, list)
    if spoiling:
        spoiling(assembly)
    assembly.trainer.train()
    return assembly, keeper


def lines(config: Path) -> list[dict]:
    """What was written beside the run."""
    return [json.loads(line) for line in (config.parent / "nonfinite.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_run_stops_and_names_the_rows(config_file, rows_file, what):
    kept = {}

    def spoiling(assembly: Assembly) -> None:
        spoil(assembly, tokens_of(assembly, 4, 7), what)
        kept["assembly"], kept["before"] = assembly, assembly.adapter()

    with pytest.raises(FinetuneError) as caught:
        run(config_file, "training.gradient_accumulation_steps=4", spoiling=spoiling)
    found = "the loss is nan" if what == "loss" else "the norm of the gradient is "
    assert caught.value.message.startswith(found)
    assert "at step 1, from " in caught.value.message
    assert "the update was not taken, and the last checkpoint is good" in caught.value.message
    assert "training.on_nonfinite=skip goes on without them" in caught.value.hint
    (line,) = lines(config_file)
    assert sorted(line["rows"]) == [f"{rows_file} line 5", f"{rows_file} line 8"]
    assert line["step"] == 1 and line["action"] == "stop" and line["found"].startswith(found)
    assert all(place in caught.value.message for place in line["rows"])
    now = kept["assembly"].adapter()
    assert all(torch.equal(now[name], kept["before"][name]) for name in now)


def test_skip_takes_the_update_as_if_the_rows_had_not_been_there(config_file):
    """Its gradient is that of the other rows alone, over their trained tokens, by hand."""
    keys = ["training.gradient_accumulation_steps=4", "training.on_nonfinite=skip", "lora.dropout=0.0"]
    keys += ["training.max_grad_norm=1e9", "training.max_steps=1"]
    assembly, keeper = run(config_file, *keys, spoiling=lambda a: spoil(a, tokens_of(a, 4, 7)))
    model, rows = assemble(config_file, *KEYS, *keys), [row for row in range(12) if row not in (4, 7)]
    total, count = torch.zeros(()), 0
    for row in (model.data.train.rows[at] for at in rows):
        logits = model.model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0]
        labels = torch.tensor(row.labels)
        total = total + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)
        count += row.trained
    model.model.zero_grad()
    (total / count).backward()
    for name, expected in model.gradients().items():
        torch.testing.assert_close(keeper.gradients[0][name], expected, rtol=1e-4, atol=1e-6)
    trainer = assembly.trainer
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(total.detach()) / count, rel=1e-5)
    assert trainer.state.log_history[0]["entropy"] > 0
    assert (int(trainer.rows_seen), int(trainer.trained_seen)) == (12, count)
    assert trainer.guards.to_json() == {
        "splits": 0, "nonfinite_updates": 1, "updates_left_out": 0, "rows_left_out": 2, "spikes": 0,
    }  # fmt: skip


def test_an_update_that_no_row_spoils_alone_is_left_out_whole(config_file):
    """Weights and the optimiser's state are bit for bit those before it; the next update is taken."""

    def spoiling(assembly: Assembly) -> None:
        trainer, pass_over = assembly.trainer, assembly.trainer.pass_over

        def together(model, inputs, count):
            loss = pass_over(model, inputs, count)
            whole = len(inputs["input_ids"]) == 3
            return loss * float("inf") if whole and trainer.state.global_step == 1 else loss

        trainer.pass_over = together

    keys = ["training.on_nonfinite=skip", "training.max_steps=3"]
    assembly, keeper = run(config_file, *keys, spoiling=spoiling)
    equal = [
        all(torch.equal(before[key], after[key]) for key in after)
        for before, after in (keeper.adapters[2:4], keeper.states[2:4], keeper.adapters[4:6], keeper.adapters[:2])
    ]
    assert equal == [True, True, False, False]
    assert keeper.states[2].keys() == keeper.states[3].keys()
    (line,) = lines(config_file)
    assert line["rows"] == [] and len(line["update"]) == 6 and line["action"] == "skip"
    history = [entry for entry in assembly.trainer.state.log_history if "learning_rate" in entry]
    assert ["loss" in entry for entry in history] == [True, False, True]
    assert assembly.trainer.guards.updates_left_out == 1


@pytest.mark.parametrize("left_out", [False, True])
def test_random_numbers_go_on_as_if_nothing_had_been(config_file, left_out):
    """What is drawn after the update: its own dropout is that of the whole batch."""
    states = []

    def noting(assembly: Assembly) -> None:
        class Note(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                states.append(torch.get_rng_state())

        assembly.trainer.add_callback(Note())

    def spoiling(assembly: Assembly) -> None:
        noting(assembly)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(42)).tolist()
        spoil(assembly, tokens_of(assembly, *(order if left_out else order[3:6])))  # all, or the last micro batch

    keys = ["training.on_nonfinite=skip", "training.max_steps=1"]
    run(config_file, *keys, spoiling=spoiling)
    run(config_file, *keys, spoiling=noting)
    assert torch.equal(*states)


def test_many_updates_left_out_end_the_run(config_file):
    with pytest.raises(FinetuneError) as caught:
        run(
            config_file, "training.on_nonfinite=skip", "training.max_steps=20",
            spoiling=lambda assembly: spoil(assembly, tokens_of(assembly, *range(12))),
        )  # fmt: skip
    assert caught.value.message == "the last 10 updates gave no numbers, up to step 10"
    assert "nonfinite.jsonl" in caught.value.hint


def test_weights_that_are_no_numbers_are_told_from_rows_that_give_none(config_file):
    def spoiling(assembly: Assembly) -> None:
        assert finite(assembly.model)
        with torch.no_grad():
            next(iter(assembly.trained().values()))[0, 0] = torch.nan
        assert not finite(assembly.model)

    with pytest.raises(FinetuneError) as caught:
        run(config_file, "training.on_nonfinite=skip", spoiling=spoiling)
    assert caught.value.message == "the loss is nan at step 1: the adapter holds no numbers any more"
    assert "the last checkpoint is good" in caught.value.hint


def test_rows_of_a_pack_are_named_together(config_file, rows_file):
    members = []

    def spoiling(assembly: Assembly) -> None:
        pack = next(pack for pack in assembly.data.train_dataset if len(pack["members"]) > 1)
        spoil(assembly, [pack["input_ids"]])
        members.extend(pack["members"])

    with pytest.raises(FinetuneError):
        run(config_file, "data.packing=true", "data.max_length=72", "training.max_steps=4", spoiling=spoiling)
    (line,) = lines(config_file)
    assert line["rows"] == [" + ".join(f"{rows_file} line {row + 1}" for row in members)]


@pytest.mark.parametrize("method", ["dpo", "rloo", "grpo"])
def test_pairs_and_prompts_are_named_and_left_out(config_file, tmp_path, method):
    keys = [*rows_of(tmp_path, method), "training.on_nonfinite=skip", "training.max_steps=1"]

    def spoiling(assembly: Assembly) -> None:
        first = assembly.trainer.train_dataset[3]
        if method == "dpo":
            spoil(assembly, [first["prompt_ids"] + first["rejected_ids"]])
        else:  # padded on the left, to the same width where all prompts are as long
            pad = assembly.data.tokenizer.pad_token_id
            spoil(assembly, [[pad] * n + first["input_ids"] for n in range(12)])

    assembly, keeper = run(config_file, *keys, "training.gradient_accumulation_steps=2", "data.eval=null",
                           "training.epochs=9", spoiling=spoiling)  # fmt: skip
    if not assembly.trainer.guards.nonfinite_updates:  # of these prompts two are asked in an update
        pytest.skip("the update has not asked this prompt")
    (line,) = lines(config_file)
    assert set(line["rows"]) == {f"{tmp_path / f'{method}.jsonl'} line 4"}
    assert len(line["rows"]) == (1 if method == "dpo" else 4)
    assert assembly.trainer.guards.rows_left_out == len(line["rows"])
    assert all(torch.isfinite(tensor).all() for tensor in keeper.gradients[0].values())
    assert any(tensor.abs().max() > 0 for tensor in keeper.gradients[0].values())
    assert finite(assembly.model)


def test_a_float16_scaler_leaves_infinite_gradients_to_itself_and_a_nan_loss_to_the_guards(config_file):
    def scaled(assembly: Assembly) -> None:
        assembly.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)

    assembly, _ = run(config_file, "training.max_steps=1", spoiling=scaled)
    assert assembly.trainer.guards.nonfinite_updates == 0

    def both(assembly: Assembly) -> None:
        assembly.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        spoil(assembly, tokens_of(assembly, *range(12)))

    assembly, _ = run(config_file, "training.max_steps=1", "training.on_nonfinite=skip", spoiling=both)
    assert assembly.trainer.guards.updates_left_out == 1
    assert finite(assembly.model)
