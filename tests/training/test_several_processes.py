"""A run of two processes is the run of one: every figure and the adapter; killed, stopped and resumed too."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import several
import torch
from assembly import assemble
from rich.console import Console
from safetensors.torch import load_file
from test_oom import lack_memory
from test_other_methods import PAIRS
from test_resume import metrics, same_adapters

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import ConfigError
from finetune.processes import Processes, joined
from finetune.report.receipt import read_receipt
from finetune.training.halves import lack_of_memory

torch.set_num_threads(1)  # the models are tiny: on a busy machine threads would only wait for each other

FOUR = ["training.gradient_accumulation_steps=4", "training.sample_answers=1", "training.logging_steps=1"]
PASSES = [*FOUR, "training.max_steps=null", "training.epochs=2"]
"""Two passes of ten rows: each ends with an update of one micro batch, which falls to the first process alone."""

LONG = [*FOUR, "lora.dropout=0.1", "training.max_steps=24", "training.save_steps=2", "data.eval=null"]
PACKED = ["data.packing=true", "data.max_length=80", "training.loss_kernel=full_logits"]
CASES = [
    {"name": "padded", "keys": [*PASSES, "training.eval_steps=2", "training.save_steps=2"]},
    {"name": "packed", "keys": [*PASSES, *PACKED]},
    {"name": "streaming", "keys": [*FOUR, "data.streaming=true", "training.max_steps=4"]},
    {"name": "dpo", "keys": [*PASSES, "training.method=dpo", "training.rehearsal=false"]},
    {"name": "lacking", "keys": PASSES, "lacking": True},
    {"name": "spoilt", "keys": [*PASSES, "training.on_nonfinite=skip"], "spoilt": [2, 5, 9]},
    {"name": "sharded", "keys": [*PASSES, "training.eval_steps=2", "training.save_steps=2"], "shards": 2},
    {"name": "sharded packs", "keys": [*PASSES, *PACKED, "training.gradient_checkpointing=false"], "shards": 2},
    {"name": "sharded spoilt", "keys": [*PASSES, "training.on_nonfinite=skip"], "spoilt": [2, 5, 9], "shards": 2},
    {"name": "long", "keys": LONG},
    {"name": "long sharded", "keys": LONG, "shards": 2},
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("several")
    for name, verb, rows in (("train", "Say", 10), ("held", "Cry", 7)):
        turns = [[_turn("user", f"{verb} {n}."), _turn("assistant", "word " * n + "end")] for n in range(1, rows + 1)]
        _write(folder / f"{name}.jsonl", [{"messages": one} for one in turns])
    _write(folder / "pairs.jsonl", PAIRS[:6])
    _write(folder / "other_pairs.jsonl", PAIRS[6:])
    path = folder / "config.yaml"
    path.write_text(
        f"""\
model: {{name_or_path: {tiny_model}}}
quantization: {{compute_dtype: float32}}
lora: {{r: 4, alpha: 8}}
data: {{train: {folder / "train.jsonl"}, eval: {folder / "held.jsonl"}, max_length: 64}}
training: {{micro_batch_size: 2, learning_rate: 1.0e-2, optimizer: adamw_torch, sample_max_new_tokens: 4}}
output_dir: {folder / "none"}
""",
        encoding="utf-8",
    )
    return path


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def keys(config: Path, case: dict) -> list[str]:
    pairs = [f"data.train={config.parent / 'pairs.jsonl'}", f"data.eval={config.parent / 'other_pairs.jsonl'}"]
    return [*case["keys"], *(pairs if case["name"] == "dpo" else [])]


def launch(config: Path, name: str, cases: list[dict], count: int = 2) -> tuple[int, str]:
    """Cases with so many processes, each in a directory of its own below that name."""
    folder = config.parent / name
    folder.mkdir(exist_ok=True)
    file = folder / "cases.json"
    file.write_text(json.dumps([{**case, "keys": keys(config, case)} for case in cases]), encoding="utf-8")
    shutil.copy(config, folder / "config.yaml")
    return several.finished(*several.TORCHRUN[:-1], count, several.__file__, folder / "config.yaml", file)


@pytest.fixture(scope="module")
def two(config: Path) -> Path:
    """Every case, in one launch."""
    code, said = launch(config, "two", CASES)
    assert code == 0, said
    return config.parent / "two"


def adapters_differ(left: Path, right: Path) -> float:
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (left, right))
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def require_equal(run: Path, expected: Path) -> None:
    """Figures and adapter to rounding; what is counted, exactly."""
    found, wanted = metrics(run), metrics(expected)
    assert len(found) == len(wanted) > 1
    for line, other in zip(found, wanted, strict=True):
        meters = {name for name in {*line, *other} if name.startswith("noise")}  # a difference of like numbers
        assert {*line} - meters == {*other} - meters
        for name in {*line} & {*other}:
            assert line[name] == pytest.approx(other[name], rel=1e-2 if name in meters else 1e-5, abs=1e-7), name
    assert adapters_differ(run, expected) < 1e-5
    of_two, of_one = report(run), report(expected)
    for name in ("rows", "tokens", "trained_tokens", "steps", "epochs"):
        assert of_two["train"][name] == of_one["train"][name]
    assert of_two["samples"] == of_one["samples"]
    assert of_two["environment"]["processes"] == 2 and of_one["environment"]["processes"] == 1


def left_out(run: Path) -> list[tuple[int, list[str]]]:
    """Updates that gave no numbers, and the rows that were left out of them."""
    lines = map(json.loads, (run / "nonfinite.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["step"], sorted(line["rows"])) for line in lines]


@pytest.mark.parametrize("case", CASES[:-2], ids=lambda case: case["name"])
def test_two_processes_are_one(config, two, case):
    """The faults too: memory runs out in one of two and in none of one, rows are left out of both."""
    alone = several.train(config, {**case, "keys": keys(config, case)}, own=False)
    require_equal(two / case["name"], alone)
    found, wanted = (report(run)["guards"] for run in (two / case["name"], alone))
    if case["name"] == "lacking":
        assert found.pop("splits") > wanted.pop("splits") == 0
    assert found == wanted
    if case["name"] == "spoilt":
        assert found["rows_left_out"] > 0
        assert left_out(two / case["name"]) == left_out(alone)


def test_a_run_of_two_goes_on_with_one(config, two):
    run, case = config.parent / "fewer", CASES[0]
    shutil.copytree(two / "padded", run)
    for left in ("adapter", "checkpoints/checkpoint-4"):
        shutil.rmtree(run / left)
    for page in run.glob("report.*"):
        page.unlink()
    said = io.StringIO()
    loaded = load_config(config, [*case["keys"], f"output_dir={run}"])
    pipeline.train(loaded, Console(file=said, width=1000), resume=True)
    assert "the run goes on from checkpoint-2" in said.getvalue()
    assert "processes were 2, are 1: the same updates, with sums in another order" in said.getvalue()
    assert read_receipt(run)["drift"] == [{"from_step": 2, "changed": ["processes were 2, are 1"]}]
    assert adapters_differ(run, two / "padded") < 1e-5
    for line, other in zip(metrics(run), metrics(two / "padded"), strict=True):
        assert line["epoch"] == other["epoch"]
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-5)


def test_a_base_that_is_shared_out_learns_the_same_to_the_bit(two):
    """Dropout too: spare passes draw no random number. Of each layer's weights a process holds its half."""
    assert same_adapters(two / "long sharded", two / "long")
    assert metrics(two / "long sharded") == metrics(two / "long")
    halves = [json.loads((two / "long sharded" / f"held-{rank}.json").read_text()) for rank in range(2)]
    assert [sum(held) for held in zip(*halves, strict=True)] == [2 * own for own in halves[0]]
    assert len(halves[0]) == 2 * 9, "of two layers seven matrices and two norms each"
    assert not (two / "long" / "held-0.json").exists()
    memory = report(two / "sharded packs")["memory"]
    assert memory["predicted_bytes"] == pytest.approx(memory["measured_bytes"], rel=0.02)


def test_four_processes_may_share_two_bases(config):
    case = {"name": "groups", "keys": [*FOUR, "training.max_steps=3"], "shards": 2}
    code, said = launch(config, "four", [case], 4)
    assert code == 0, said
    run, alone = config.parent / "four" / "groups", several.train(config, case)
    assert adapters_differ(run, alone) < 1e-5
    first, second, *others = [json.loads((run / f"held-{rank}.json").read_text()) for rank in range(4)]
    assert others == [first, second]
    for line, other in zip(metrics(run), metrics(alone), strict=True):
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-5)


@pytest.mark.parametrize("shards", [1, 2])
def test_stopped_killed_and_resumed_is_the_uninterrupted_run(config, two, shards):
    """And an error of the second process alone ends the run in its words; the first says how to go on."""
    run = config.parent / f"ends {shards}" / "halves"
    command = ["-m", "finetune", "train", config, *LONG, f"hardware.shards={shards}", f"output_dir={run}"]
    with several.launched(*several.TORCHRUN, *command) as process:
        several.when_step(run, 3, process, lambda: process.send_signal(signal.SIGTERM))
        said, _ = process.communicate(timeout=several.LIMIT)
    assert process.returncode != 0
    assert said.count("SIGTERM: the update is finished and saved, then the run stops") == 1
    assert said.count("error: stopped at step ") == 1
    stopped = int(said.partition("error: stopped at step ")[2].partition(" ")[0])
    assert f"of 24 (SIGTERM); the last checkpoint is checkpoint-{stopped}" in said
    assert not (run / "adapter").exists()

    with several.launched(*several.ACCELERATE, *command, "--resume") as process:
        said = several.when_step(run, stopped + 5, process, lambda: several.kill_all(process))
    assert "accelerate's mixed_precision=bf16 is not read" in said
    assert said.count("the run goes on from checkpoint-") == 1
    assert not (run / "adapter").exists()

    resumed = {"name": "halves", "keys": LONG, "resume": True, "shards": shards if shards > 1 else None}
    if shards > 1:
        code, said = launch(config, f"ends {shards}", [resumed])
        assert code == 0, said
        assert same_adapters(run, two / "long")
        assert metrics(run) == metrics(two / "long")
        return
    code, said = launch(config, f"ends {shards}", [resumed, {"name": "failing", "keys": LONG, "failing": True}])
    assert same_adapters(run, two / "long")
    assert metrics(run) == metrics(two / "long")

    assert code != 0
    assert said.count("error: ") == 2, said
    assert "error: process 2: out of memory in update 5: " in said
    assert "error: another process of the run has ended (" in said
    assert ") at step 4 of 24; the last checkpoint is checkpoint-4" in said
    assert "hint: see its words and the launcher's, then go on with `finetune train" in said


def test_an_error_of_all_is_said_once(config):
    command = ["-m", "finetune", "train", config, "training.gradient_accumulation_steps=3"]
    code, said = several.finished(*several.TORCHRUN, *command)
    assert code != 0
    assert said.count("error: training.gradient_accumulation_steps=3 micro batches cannot be shared out evenly") == 1
    assert "exitcode  : 2" in said
    assert not (config.parent / "none").exists()


def test_as_many_processes_as_share_the_base(config):
    loaded = load_config(config, ["hardware.shards=2", "training.gradient_accumulation_steps=12"])
    for count in (2, 4, 6):
        Processes(0, count).require_shares(loaded)
    for count, started in {1: "one was started", 3: "3 were started"}.items():
        with pytest.raises(ConfigError) as refused:
            Processes(0, count).require_shares(loaded)
        assert refused.value.message == f"hardware.shards=2 processes share the base, and {started}"
        assert refused.value.hint == (
            "start 2 of them, or a multiple, as with `torchrun --nproc-per-node 2 -m finetune train CONFIG`, or set "
            "hardware.shards=1"
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.method=dpo", "is for sft: this is dpo"),
        ("quantization.type=none", "is for a base in 4 bits; quantization.type is none"),
        ("lora.use_dora=true", "does not go with lora.use_dora, which reads a whole weight by itself"),
        ("training.compile=true", "does not go with training.compile: set that to false"),
        ("training.activation_offloading=true", "does not go with training.activation_offloading: set that to false"),
    ],
)
def test_what_a_shared_base_does_not_go_with(config, override, message):
    with pytest.raises(ConfigError) as refused:
        load_config(config, ["hardware.shards=2", override])
    assert f"hardware.shards=2 {message}" in str(refused.value)


def test_a_pass_that_does_not_fit_is_not_done_again_where_others_are_in_theirs(config):
    assembly = assemble(config, *FOUR, "training.max_steps=1", "data.eval=null")
    lack_memory(assembly.model, "backward", above=0)
    assembly.trainer.sharded = True
    assert assembly.trainer.on_split is None
    with pytest.raises(RuntimeError) as caught:
        assembly.trainer.train()
    assert lack_of_memory(caught.value)


def test_what_cannot_be_shared_out_is_refused(config):
    with pytest.raises(ConfigError) as refused:
        Processes(0, 4).require_shares(load_config(config, ["training.gradient_accumulation_steps=6"]))
    assert refused.value.message == (
        "training.gradient_accumulation_steps=6 micro batches cannot be shared out evenly among 4 processes"
    )
    assert refused.value.hint == "start 1, 2, 3 or 6 of them, or make it a multiple of 4, such as 8"
    rewards = ["training.method=rloo", "rewards=[{type: length, max: 8}]", "rollout.max_completion_length=8"]
    with pytest.raises(ConfigError, match=r"training\.method=rloo runs in one process, and 2 were started"):
        Processes(1, 2).require_shares(load_config(config, rewards))
    Processes().require_shares(load_config(config, rewards))


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_other_engines_are_refused(config, monkeypatch, engine):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    refused = pytest.raises(ConfigError, match=r"accelerate is asked for .*, which a run does not take from there")
    with refused, joined(load_config(config)):
        pass


def test_one_process_of_a_launcher_is_a_run_without_one(config, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with joined(load_config(config)) as processes:
        assert processes == Processes()
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & {*os.environ}
