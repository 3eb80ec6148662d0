"""The rehearsal runs the worst of a run, says what it took, and leaves nothing behind: the run is bitwise the same."""

from __future__ import annotations

import copy
import io
import json
import resource
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from assembly import Assembly, assemble
from rich.console import Console
from safetensors.torch import load_file

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import AuditError, DoesNotFit, RunDirError
from finetune.training import Rehearsal, checkpoints, ending, rehearse
from finetune.training import unchanged as unchanged_module
from finetune.training.unchanged import fingerprint


def rehearsed(assembly: Assembly, folder: Path, predicted: int = 2**24) -> Rehearsal:
    return rehearse(assembly.spec, assembly.trainer, folder, predicted=predicted)


def record(assembly: Assembly) -> list[list[list[int]]]:
    """The rows of every batch that is made from now on."""
    seen, collate = [], assembly.trainer.data_collator

    def collating(rows):
        seen.append([row["input_ids"] for row in rows])
        return collate(rows)

    assembly.trainer.data_collator = collating
    return seen


def equal_rows(path: Path, count: int) -> Path:
    """Rows of one length: every batch of as many is the worst."""
    messages = [{"role": "user", "content": "Say 9 words."}, {"role": "assistant", "content": "word " * 9}]
    path.write_text((json.dumps({"messages": messages}) + "\n") * count, encoding="utf-8")
    return path


def fail_at(model: torch.nn.Module, tokens: int, when_training: bool) -> None:
    """Has more memory asked for than there is, at a batch of `tokens` with its padding."""

    def ask(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if module.training == when_training and inputs[0].numel() == tokens:
            torch.empty(2**58)

    model.get_input_embeddings().register_forward_pre_hook(ask)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["quantization.compute_dtype=bfloat16", "lora.dtype=bfloat16", "training.gradient_accumulation_steps=1"],
        ["training.optimizer=adamw_8bit", "lora.r=128", "data.eval=null"],
        ["lora.use_dora=true", "data.packing=true", "training.loss_kernel=full_logits"],
    ],
    ids=lambda overrides: " ".join(overrides) or "default",
)
def test_a_run_after_a_rehearsal_is_bitwise_the_run_without_one(tmp_path, config_file, overrides):
    fixed = ["training.max_steps=4", "lora.dropout=0.1", "training.weight_decay=0.01", *overrides]
    plain = assemble(config_file, *fixed)
    orders = [record(plain)]
    plain.trainer.train()
    other = assemble(config_file, *fixed)
    rehearsed(other, tmp_path)
    orders.append(record(other))
    other.trainer.train()
    assert orders[0] == orders[1]
    expected, found = plain.adapter(), other.adapter()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logs = [
        [{key: entry.get(key) for key in ("loss", "grad_norm", "eval_loss", "entropy")} for entry in history]
        for history in (plain.trainer.state.log_history, other.trainer.state.log_history)
    ]
    assert logs[0] == logs[1]
    for name in ("rows_seen", "tokens_seen", "trained_seen", "_total_train_tokens"):
        assert int(getattr(plain.trainer, name)) == int(getattr(other.trainer, name))


def test_the_whole_line_with_and_without_it(config_file):
    """Adapter, metrics and answers of `finetune train`, whose evaluation before training comes after the rehearsal."""
    runs, lines, reports = [], [], []
    for on in ("true", "false"):
        output = config_file.parent / on
        keys = ["lora.dropout=0.1", "training.save_steps=1", "training.eval_steps=1", f"training.rehearsal={on}"]
        keys.append("data.max_length=512")  # evaluation takes the most, which is said
        out = io.StringIO()
        config = load_config(config_file, [*keys, f"output_dir={output}"])
        reports.append(pipeline.train(config, Console(file=out)))
        runs.append(load_file(output / "adapter" / "adapter_model.safetensors"))
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        measured = ("seconds", "tokens_per_second", "memory_bytes")
        lines.append([{key: value for key, value in row.items() if key not in measured} for row in rows])
        assert ("rehearsal: " in out.getvalue()) == (on == "true")
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert lines[0] == lines[1]
    for key in ("eval_loss", "samples"):
        assert reports[0][key] == reports[1][key]
    figures, none = reports[0]["rehearsal"], reports[1]["rehearsal"]
    assert figures["predicted_bytes"] == reports[0]["memory"]["predicted_bytes"]
    assert all(value > 0 for value in figures.values())
    assert set(none.values()) == {None}
    assert [note for note in reports[0]["notes"] if note not in reports[1]["notes"]] == [
        note for note in reports[0]["notes"] if note.startswith("rehearsal: ")
    ]
    assert not list((config_file.parent / "true").glob(".*.tmp"))


def test_nothing_is_left_behind(tmp_path, config_file):
    assembly = assemble(config_file, "lora.dropout=0.1")
    trainer, model = assembly.trainer, assembly.model
    model.eval()
    model.generation_config.eos_token_id = 3  # training aligns it with the tokenizer
    before, hooks = fingerprint(trainer), [len(part._forward_hooks) for part in model.modules()]
    attributes = [set(vars(part)) for part in (trainer, trainer.accelerator, *model.modules())]
    files = sorted(tmp_path.rglob("*"))
    rehearsed(assembly, tmp_path)
    assert fingerprint(trainer) == before
    assert [len(part._forward_hooks) for part in model.modules()] == hooks
    assert [set(vars(part)) for part in (trainer, trainer.accelerator, *model.modules())] == attributes
    assert trainer.optimizer is None
    assert trainer.lr_scheduler is None
    assert trainer.accelerator._optimizers == []
    assert model.generation_config.eos_token_id == 3
    assert sorted(tmp_path.rglob("*")) == files
    assert trainer.memory.peak() == 0, "the run's peak is its own"


def write_frozen_weight(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = assembly.model.get_input_embeddings()
    embedding.register_forward_hook(lambda *_: torch.autograd.graph.increment_version(embedding.weight))


def keep_gradients(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly.model, "zero_grad", lambda set_to_none=True: None)


def draw_random_numbers(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    assembly.model.get_input_embeddings().register_forward_pre_hook(lambda *_: np.random.seed(1))
    monkeypatch.setattr("numpy.random.set_state", lambda state: None)


def count_on(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged_module, "copy", SimpleNamespace(copy=copy.copy, deepcopy=lambda value: value))


@pytest.mark.parametrize(
    ("disturb", "found"),
    [
        (write_frozen_weight, "base_model.model.model.embed_tokens.weight"),
        (keep_gradients, "the gradient of base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        (draw_random_numbers, "random numbers of numpy"),
        (count_on, "rows_seen"),
    ],
)
def test_what_is_not_as_it_was_stops_the_run(tmp_path, config_file, monkeypatch, disturb, found):
    assembly = assemble(config_file)
    disturb(assembly, monkeypatch)
    with pytest.raises(AuditError) as caught:
        rehearsed(assembly, tmp_path)
    assert caught.value.message == f"the rehearsal has changed {found}"
    assert "please report it" in caught.value.hint


@pytest.mark.parametrize("packing", ["false", "true"])
def test_the_batches_are_the_worst_that_the_data_can_make(tmp_path, config_file, packing):
    assembly = assemble(config_file, f"data.packing={packing}", "training.micro_batch_size=2", "data.max_length=72")
    dataset, seen = assembly.trainer.train_dataset, record(assembly)
    lengths = [len(ids) for ids in dataset["input_ids"]]
    worst = max(2 * max(pair) for pair in combinations(lengths, 2))
    found = rehearsed(assembly, tmp_path)
    *trained, evaluated = [[len(ids) for ids in batch] for batch in seen]
    assert found.tokens == worst
    assert trained == [[min(lengths)]] * 2 + [sorted(lengths)[:-3:-1]] * 2
    seen.clear()
    assembly.trainer.evaluate()
    sizes = [len(batch) * max(map(len, batch)) for batch in seen]
    assert len(sizes) > 1
    assert len(evaluated) * max(evaluated) == max(sizes)


def test_without_accumulation_or_held_out_rows_there_is_less_to_run(tmp_path, config_file):
    assembly = assemble(config_file, "training.gradient_accumulation_steps=1", "data.eval=null")
    seen = record(assembly)
    assert rehearsed(assembly, tmp_path).eval_peak_bytes is None
    assert [len(batch) for batch in seen] == [1, 2]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_peak_is_that_of_a_run_whose_every_batch_is_the_worst(tmp_path, config_file, accumulation):
    rows = equal_rows(tmp_path / "equal.jsonl", 12)
    keys = [f"data.train={rows}", f"training.gradient_accumulation_steps={accumulation}", "training.max_steps=3"]
    assembly = assemble(config_file, *keys, "training.save_steps=3", "data.eval=null", "lora.r=32")
    found = rehearsed(assembly, tmp_path)
    trainer = assembly.trainer
    trainer.train()
    assert found.train_peak_bytes == trainer.memory.peak()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-3"
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert found.checkpoint_bytes == pytest.approx(size, rel=0.02)
    assert 0 < found.seconds_per_micro_step < 5


def test_float16_updates_are_not_skipped_and_the_scale_is_as_it_was(tmp_path, config_file):
    """The scaler that a card trains float16 with; a run of its own begins at 65,536."""
    assembly = assemble(config_file, "data.eval=null")
    peak = rehearsed(assembly, tmp_path).train_peak_bytes
    scaler = assembly.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    scaled = rehearsed(assembly, tmp_path).train_peak_bytes
    assert assembly.trainer.accelerator.scaler is scaler
    assert scaler.state_dict() == torch.amp.GradScaler("cpu", init_scale=2.0**127).state_dict()
    assert scaled == pytest.approx(peak, abs=64), "the optimiser has no state"


def test_a_difference_of_more_than_a_twentieth_is_a_note(tmp_path, config_file):
    assembly = assemble(config_file, "data.eval=null")
    peak = rehearsed(assembly, tmp_path).train_peak_bytes
    assert rehearsed(assembly, tmp_path, predicted=round(peak / 1.049)).notes == []
    found = rehearsed(assembly, tmp_path, predicted=round(peak / 1.051))
    assert len(found.notes) == 1
    assert "(+5.1%)" in found.notes[0]
    assert rehearsed(assembly, tmp_path, predicted=2 * peak).notes == [
        f"rehearsal: the largest training batch (2 x 66 tokens) took {peak / 2**30:.3f} GiB at its peak where "
        f"{peak / 2**29:.3f} GiB were predicted (-50.0%); every row is priced at data.max_length=128, the longest "
        "here has 66 tokens"
    ]
    cut = "data.max_length=40", "data.max_truncated=1"
    full = rehearsed(assemble(config_file, "data.eval=null", *cut), tmp_path, predicted=1)
    assert "(2 x 40 tokens)" in full.notes[0]
    assert "priced" not in full.notes[0]


def test_where_an_evaluation_takes_more_it_is_what_is_compared(tmp_path, config_file):
    """Its batches may hold more rows than those of training, up to as many tokens as these might have."""
    assembly = assemble(config_file, "data.max_length=512")
    found = rehearsed(assembly, tmp_path, predicted=1)
    assert found.eval_peak_bytes > found.train_peak_bytes
    assert found.notes[0].startswith("rehearsal: the largest evaluation batch (12 x 66 tokens) took")


def test_an_evaluation_is_measured_beside_the_state_of_the_optimiser(tmp_path, config_file):
    assembly = assemble(config_file)
    with_state = rehearsed(assembly, tmp_path).eval_peak_bytes
    without = rehearsed(assemble(config_file, "training.optimizer=sgd"), tmp_path).eval_peak_bytes
    tensors = assembly.trained().values()
    assert with_state - without == sum(2 * tensor.nbytes + 4 for tensor in tensors), "two moments and a step count"


@pytest.mark.parametrize(
    ("keys", "tokens", "when_training", "where", "hint"),
    [
        (
            [], 132, True, "the largest training batch (2 x 66 tokens)",
            "halve training.micro_batch_size=2 and double training.gradient_accumulation_steps=2: "
            "the effective batch stays as it is",
        ),
        (
            ["training.micro_batch_size=1"], 66, True, "the largest training batch (1 x 66 tokens)",
            "lower data.max_length=128; `finetune preflight CONFIG --gpu 24GiB` says what fits",
        ),
        (
            [], 224, False, "the largest evaluation batch (4 x 56 tokens)",
            "halve training.micro_batch_size=2 and double training.gradient_accumulation_steps=2: "
            "the effective batch stays as it is",
        ),
    ],
    ids=["training", "one row", "evaluation"],
)  # fmt: skip
def test_what_does_not_fit_is_said_and_leaves_nothing(
    config_file, monkeypatch, keys, tokens, when_training, where, hint
):
    build = pipeline.build_model

    def build_large(spec, **kwargs):
        model = build(spec, **kwargs)
        fail_at(model, tokens, when_training)
        return model

    monkeypatch.setattr(pipeline, "build_model", build_large)
    with pytest.raises(DoesNotFit) as caught:
        pipeline.train(load_config(config_file, keys), Console(file=io.StringIO()))
    assert caught.value.message.startswith(f"out of memory in the rehearsal, at {where}: ")
    assert "can't allocate memory" in caught.value.message or "not enough memory" in caught.value.message
    assert caught.value.hint == hint
    assert not (config_file.parent / "run").exists()


def test_any_other_fault_is_left_as_it_is(tmp_path, config_file):
    assembly = assemble(config_file)

    def fault(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assembly.model.get_input_embeddings().register_forward_pre_hook(fault)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        rehearsed(assembly, tmp_path)


@pytest.fixture
def file_limit() -> Iterator:
    """Sets the largest file that may be written, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.5, 1.5], ids=["adapter", "optimiser"])
def test_a_full_disk_is_found_before_the_run(tmp_path, config_file, file_limit, share):
    """At the adapter alone, and at the optimiser's state, which is twice as large."""
    assembly = assemble(config_file, "lora.r=64")
    folder = tmp_path / "folder"
    folder.mkdir()
    file_limit(int(share * sum(tensor.nbytes for tensor in assembly.trained().values())))
    with pytest.raises(DoesNotFit) as caught:
        rehearsed(assembly, folder)
    what = "the adapter could not be saved" if share < 1 else "a checkpoint could not be written"
    assert caught.value.message.startswith(f"{what} in the rehearsal: [Errno 27] File too large: '")
    assert caught.value.hint == "free space, or name another output_dir"
    assert not any(folder.iterdir())


@pytest.mark.parametrize(("module", "what"), [(checkpoints, "a checkpoint"), (ending, "an adapter")])
def test_what_reads_otherwise_than_written_is_refused(tmp_path, config_file, monkeypatch, module, what):
    """A disk that loses a bit on the way."""
    write = module.write_folder

    def faulty(target, files):
        write(target, files)
        weights = target / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(module, "write_folder", faulty)
    assembly = assemble(config_file)
    with pytest.raises(RunDirError) as caught:
        rehearsed(assembly, tmp_path)
    where = assembly.spec.config.output_dir if module is checkpoints else tmp_path
    assert caught.value.message == f"{where}: {what} does not read back as it was written"
    assert caught.value.hint == "check the disk, or name an output_dir on another one"
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_adapter_that_cannot_be_merged_is_found_before_the_run(tmp_path, config_file, monkeypatch):
    assembly = assemble(config_file)
    layer = assembly.model.base_model.model.model.layers[0].self_attn.v_proj
    with torch.no_grad():
        layer.lora_B["default"].weight[0] = float("inf")
    with pytest.raises(RunDirError) as caught:
        rehearsed(assembly, tmp_path)
    assert caught.value.message.startswith("base_model.model.model.layers.0.self_attn.v_proj: the adapter's part [")
    assert "cannot be added to the weight [" in caught.value.message


def test_a_dry_run_rehearses(config_file):
    result = pipeline.train(load_config(config_file), Console(file=io.StringIO()), dry_run=True)
    assert result["rehearsal"]["train_peak_bytes"] > 0
    assert not (config_file.parent / "run").exists()
