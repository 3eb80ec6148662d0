"""The whole line on a tiny model: what a run directory holds, and that every number in it is true."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from finetune import pipeline
from finetune.config import RunConfig, load_config
from finetune.errors import ConfigError, DataError, RunDirError
from finetune.training.reporters import prepare_reporters

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other

PLAIN_PEFT = """
import sys, json, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

base, adapter, rows = sys.argv[1:]
four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
model = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bits, dtype=torch.float32)
model, tokenizer = PeftModel.from_pretrained(model, adapter).eval(), AutoTokenizer.from_pretrained(adapter)
total = count = 0
for row in map(json.loads, open(rows)):
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    answer = row["messages"][-1]["content"] + "<|im_end|>"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
    size = len(tokenizer(answer, add_special_tokens=False).input_ids)
    end = ids.shape[1] - 1  # a line break follows the stop token
    with torch.no_grad():
        scores = model(ids).logits[0, end - size - 1 : end - 1].double().log_softmax(-1)
    total -= scores.gather(1, ids[0, end - size : end, None]).sum().item()
    count += size
print(total / count)
"""


@dataclass(frozen=True)
class Run:
    """A finished run: its configuration, what `train` returned, and where it is."""

    config: RunConfig
    report: dict
    path: Path
    rows: Path
    model: Path
    printed: str


def write_rows(path: Path, words: range, verb: str = "Say") -> Path:
    """Conversations with answers of these numbers of words."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{verb} {n} words."},
                {"role": "assistant", "content": "word " * n + "end"},
            ]
        }
        for n in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def configure(folder: Path, model: Path, *overrides: str) -> RunConfig:
    """Twelve rows to train on in six updates of four, which is two epochs; seven others held out."""
    file = folder / "config.yaml"
    train, held_out = (
        write_rows(folder / "train.jsonl", range(1, 13)),
        write_rows(folder / "eval.jsonl", range(2, 29, 4), "Cry"),
    )
    file.write_text(
        f"""\
model: {{name_or_path: {model}}}
quantization: {{compute_dtype: float32}}
lora: {{r: 4, alpha: 8}}
data: {{train: {train}, eval: {held_out}, max_length: 128}}
training: {{max_steps: 6, micro_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 1.0e-2,
           optimizer: adamw_torch, gradient_checkpointing: true, sample_answers: 2, sample_max_new_tokens: 4}}
output_dir: {folder / "run"}
""",
        encoding="utf-8",
    )
    return load_config(file, overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """A run with checkpoints, evaluations and TensorBoard."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("pipeline")
    overrides = ["training.save_steps=2", "training.eval_steps=4", "training.report_to=[tensorboard]"]
    config = configure(folder, tiny_model, *overrides)
    out = io.StringIO()
    report = pipeline.train(config, Console(file=out, width=200))
    return Run(config, report, folder / "run", folder / "eval.jsonl", tiny_model, out.getvalue())


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_run_directory_holds_what_the_contract_names(run):
    assert {entry.name for entry in run.path.iterdir()} == {
        "config.yaml", "environment.json", "preflight.json", "before.json", "metrics.jsonl", "checkpoints", "adapter",
        "receipt.json", "report.json", "report.md", "report.html", "tensorboard", ".lock",
    }  # fmt: skip
    assert {entry.name for entry in (run.path / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip
    assert load_config(run.path / "config.yaml") == run.config
    environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    assert environment["torch"] == metadata.version("torch")
    assert environment["device"].startswith("CPU")


def test_the_newest_checkpoints_are_kept_and_the_best(run):
    """The last update is evaluated too, and is the best so far."""
    assert run.config.training.save_total_limit == 2
    assert sorted(folder.name for folder in (run.path / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert pipeline.newest_good(run.path / "checkpoints").name == "checkpoint-6"


def test_report_json_is_what_train_returns_and_has_the_keys_of_the_contract(run):
    report = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(run.report))
    assert report["memory"].keys() >= {"predicted_bytes", "measured_bytes"}
    assert report["eval_loss"].keys() == {"before", "after"}
    assert report["train"].keys() >= {"seconds", "rows", "tokens"}
    assert (run.path / report["adapter"]).is_dir()
    assert report["tokens_per_second"] == pytest.approx(report["train"]["tokens"] / report["train"]["seconds"])
    preflight = json.loads((run.path / "preflight.json").read_text(encoding="utf-8"))
    memory = report["memory"]
    assert memory["predicted_bytes"] < preflight["memory"]["allocated_bytes"], "its rows are shorter than max_length"
    assert memory["predicted_bytes"] == pytest.approx(memory["measured_bytes"], rel=0.01)
    assert preflight["memory"]["timeline"]


def test_rows_tokens_and_trained_tokens_are_those_of_a_count_by_hand(run):
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    rows = [json.loads(line) for line in Path(run.config.data.train).read_text(encoding="utf-8").splitlines()]
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    tokens = sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)
    answers = [tokenizer(row["messages"][-1]["content"], add_special_tokens=False).input_ids for row in rows]
    trained = sum(len(answer) + 1 for answer in answers)  # and the stop token
    counted = run.report["train"]
    assert (counted["steps"], counted["epochs"]) == (6, 2.0)
    assert (counted["rows"], counted["tokens"], counted["trained_tokens"]) == (24, 2 * tokens, 2 * trained)
    assert (run.report["data"]["train"]["tokens"], run.report["data"]["train"]["rows"]) == (tokens, 12)


def test_held_out_loss_falls_and_is_evaluated_where_asked_and_at_the_end(run):
    evaluated = {line["step"]: line["eval_loss"] for line in lines(run) if "eval_loss" in line}
    assert list(evaluated) == [0, 4, 6]
    assert run.report["eval_loss"] == {"before": evaluated[0], "after": evaluated[6]}
    assert evaluated[6] < evaluated[4] < evaluated[0] - 0.3
    assert [line["step"] for line in lines(run) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    losses = [line["loss"] for line in lines(run) if "loss" in line]
    assert run.report["train"]["loss"] == {"first": losses[0], "last": losses[-1]}


def test_held_out_questions_are_answered_before_and_after(run):
    samples = run.report["samples"]
    assert [sample["prompt"] for sample in samples] == ["Cry 2 words.", "Cry 14 words."]
    assert samples[0]["reference"] == "word word end"
    before = json.loads((run.path / "before.json").read_text(encoding="utf-8"))
    assert [sample["before"] for sample in samples] == [answer["answer"] for answer in before["answers"]]


def test_what_was_found_and_the_progress_are_said_aloud(run):
    assert "12 rows of format messages" in run.printed
    assert "step 6: held-out loss" in run.printed
    assert "tokens/s" in run.printed


def test_plain_peft_loads_the_adapter_and_finds_the_same_held_out_loss(run):
    command = [sys.executable, "-c", PLAIN_PEFT, run.model, run.path / "adapter", run.rows]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    plain = float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    evaluated = pipeline.evaluate(run.path)
    assert evaluated["rows"] == 7
    assert evaluated["eval_loss"] == pytest.approx(plain, abs=1e-3)
    assert evaluated["eval_loss"] == pytest.approx(run.report["eval_loss"]["after"], abs=1e-5)


def test_eval_takes_another_file(run, tmp_path):
    other = pipeline.evaluate(run.path, str(write_rows(tmp_path / "other.jsonl", range(13, 16))))
    assert other["rows"] == 3
    assert other["eval_loss"] != pipeline.evaluate(run.path)["eval_loss"]


def test_eval_of_training_rows_is_refused_unless_it_is_meant(run, tmp_path):
    trained_on = str(write_rows(tmp_path / "trained_on.jsonl", range(3, 6)))
    with pytest.raises(DataError, match="3 rows have a copy among the training rows"):
        pipeline.evaluate(run.path, trained_on)
    assert pipeline.evaluate(run.path, trained_on, ["data.allow=[train_row_in_eval]"])["rows"] == 3
    with pytest.raises(ConfigError, match=r"lora\.r=8: the run is trained; only its data can be other"):
        pipeline.evaluate(run.path, trained_on, ["lora.r=8"])


def test_chat_answers_in_turn(run):
    reply = pipeline.open_chat(run.path, max_new_tokens=3)
    first = reply([{"role": "user", "content": "Say 2 words."}])
    again = reply([{"role": "user", "content": "Say 2 words."}])
    assert isinstance(first, str)
    assert first == again


def test_tensorboard_has_the_losses_and_the_speed_of_every_step(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    for tag, steps in {
        "train/loss": [1, 2, 3, 4, 5, 6],
        "train/tokens_per_second": [1, 2, 3, 4, 5, 6],
        "eval/loss": [0, 4, 6],
    }.items():
        assert [event.step for event in events.Scalars(tag)] == steps
    written = [line["loss"] for line in lines(run) if "loss" in line]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(written)


def test_reporters_write_into_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    prepare_reporters([], tmp_path)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"file:{tmp_path / 'mlflow'}"


def test_a_run_name_that_is_taken_is_refused_and_the_run_left_alone(run):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with pytest.raises(RunDirError, match="already holds a run"):
        pipeline.train(run.config, Console(file=io.StringIO()))
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_run_without_held_out_rows_reports_none(tmp_path, tiny_model):
    config = configure(tmp_path, tiny_model, "data.eval=null", "training.max_steps=1")
    report = pipeline.train(config, Console(file=io.StringIO()))
    assert report["eval_loss"] == {"before": None, "after": None}
    assert report["samples"] == []
    assert report["data"]["eval"] is None
    with pytest.raises(ConfigError, match="holds no rows out"):
        pipeline.evaluate(tmp_path / "run")
