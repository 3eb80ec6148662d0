"""Bad input through the real command line: one message, one hint, the contract's exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repo import REPO

from finetune import cli

USAGE, DOES_NOT_FIT, BAD_DATA = 2, 3, 4

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command that must fail with a code and words, in this process, and leave every file as it was."""

    def _refuse(code: int, words: str, hint: str, *arguments: str | Path) -> None:
        before = files(tmp_path)
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        captured = capsys.readouterr()
        assert done.value.code == code, captured.err
        assert words in captured.err
        assert f"hint: {hint}" in captured.err
        assert captured.err.count("error: ") == captured.err.count("hint: ") == 1
        assert "Traceback" not in captured.err
        assert captured.out == ""
        assert files(tmp_path) == before

    return _refuse


def files(folder: Path) -> dict[Path, int]:
    """Every file and directory below a folder, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())}


@pytest.fixture
def data(tmp_path: Path):
    """Writes a data file and returns the override that trains on it."""

    def _data(text: str, name: str = "bad.jsonl") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return f"data.train={tmp_path / name}"

    return _data


def conversation(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


GOOD = conversation(("user", "Say one word."), ("assistant", "word"))


# The configuration


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.alhpa=8", "lora.alhpa: unknown key; did you mean alpha?"),
        ("training.lr=2e-4", "training.lr: unknown key"),
        ("trainign.epochs=1", "trainign: unknown key; did you mean training?"),
        ("training.max_steps=many", "training.max_steps: input should be a valid integer; found 'many'"),
        ("data.max_length=0", "data.max_length: input should be greater than 0; found 0"),
        (
            "hardware.memory='24'",
            "hardware.memory: '24' is not a memory size: write a number and a unit, such as 24GiB",
        ),
        ("hardware.memory=24", "hardware.memory: input should be a valid string; found 24"),
    ],
)
def test_a_key_that_is_unknown_or_of_another_type(refuse, config_file, override, words):
    refuse(USAGE, words, "`finetune schema` lists every key", "train", config_file, override)


def test_a_configuration_that_is_absent_or_no_yaml(refuse, tmp_path):
    hint = "give the path of a YAML file, such as configs/qlora_r16.yaml"
    refuse(USAGE, f"{tmp_path}/absent.yaml: no such file", hint, "train", tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("model: {name_or_path: x\ndata: y", encoding="utf-8")
    refuse(
        USAGE, "broken.yaml, line 2: not valid YAML", "check indentation and colons", "train", tmp_path / "broken.yaml"
    )
    (tmp_path / "empty.yaml").touch()
    refuse(USAGE, "found an empty file", "start from a file in configs/", "train", tmp_path / "empty.yaml")


# The data


def test_data_that_is_absent_or_empty(refuse, config_file, tmp_path, data):
    words = f"{tmp_path}/absent.jsonl: no such file"
    refuse(USAGE, words, "check data.train; paths", "train", config_file, f"data.train={tmp_path}/absent.jsonl")
    refuse(BAD_DATA, "bad.jsonl: the file is empty", "write the file again", "train", config_file, data(""))
    refuse(BAD_DATA, "bad.jsonl: holds no rows", "write the file again", "train", config_file, data("\n\n"))


def test_malformed_jsonl_is_named_by_line(refuse, config_file, data):
    override = data(GOOD + '{"messages": [\n' + GOOD + "[1, 2]\n")
    words = "bad.jsonl: 2 faulty lines\n  line 2: expecting value (column 15)\n  line 4: a list, not an object"
    refuse(BAD_DATA, words, "each line holds one whole JSON object, in UTF-8", "train", config_file, override)


def test_mixed_formats(refuse, config_file, data):
    override = data(GOOD + json.dumps({"text": "Once upon a time"}) + "\n")
    refuse(BAD_DATA, "rows of 2 different formats", "bring all rows to one format", "train", config_file, override)


def test_a_row_without_an_assistant_turn(refuse, config_file, data):
    override = data(GOOD + conversation(("user", "Hello?")))
    words = "1 row has no assistant turn: "
    refuse(BAD_DATA, words, "supervised fine-tuning learns from assistant turns", "train", config_file, override)


def test_a_template_that_cannot_be_masked(refuse, config_file, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}")
    words = "24 rows have a turn that the chat template leaves out (template_drops_turn): "
    hint = "give a template that writes every turn as data.chat_template"
    refuse(BAD_DATA, words, hint, "train", config_file, f"data.chat_template={template}")


def test_a_template_that_cannot_be_read(refuse, config_file, tmp_path):
    words = f"data.chat_template: {tmp_path}/absent.jinja: cannot be read"
    hint = "give the path of a Jinja file, or none"
    refuse(USAGE, words, hint, "train", config_file, f"data.chat_template={tmp_path}/absent.jinja")


def test_rows_too_long_to_keep_an_answer(refuse, config_file):
    words = "data.train: none of 12 rows has a trained token within data.max_length=4"
    refuse(BAD_DATA, words, "raise", "train", config_file, "data.max_length=4")


# The run directory


def test_an_output_directory_that_cannot_be_written(refuse, config_file, rows_file):
    for place in (rows_file / "run", Path("/proc/run"), rows_file):
        words = f"output_dir: {place} cannot be written ("
        refuse(USAGE, words, "name a directory that you may write to", "train", config_file, f"output_dir={place}")


def test_a_directory_that_is_taken(refuse, config_file, tmp_path):
    run = tmp_path / "taken"
    run.mkdir()
    (run / "thesis.txt").write_text("mine", encoding="utf-8")
    words, hint = f"output_dir: {run} is not empty", "name a directory that does not exist yet"
    refuse(USAGE, words, hint, "train", config_file, f"output_dir={run}")
    (run / "config.yaml").write_text("model: x", encoding="utf-8")
    words, hint = f"output_dir: {run} already holds a run", "go on with `--resume`, or name another"
    refuse(USAGE, words, hint, "train", config_file, f"output_dir={run}")


def test_what_is_no_run(refuse, config_file, tmp_path):
    words, hint = "nothing is not a run directory: it has no config.yaml", "give the output_dir of a run"
    for command in ("eval", "chat", "report"):
        refuse(USAGE, words, hint, command, tmp_path / "nothing")
    refuse(USAGE, "run is not a run directory", hint, "train", config_file, "--resume")


# The model


@pytest.fixture
def copy(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_model_without_a_tokenizer(refuse, config_file, copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    words, hint = f"model.name_or_path: {copy} has no tokenizer", "copy its files there, such as tokenizer.json"
    refuse(USAGE, words, hint, "train", config_file, f"model.name_or_path={copy}")


def test_a_pickle_checkpoint(refuse, config_file, copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    words = "holds its weights in a pickle (pytorch_model.bin), which can run code when opened"
    hint = "save it again as safetensors: model.save_pretrained(directory)"
    refuse(USAGE, words, hint, "train", config_file, f"model.name_or_path={copy}")


def test_damaged_and_missing_weights(refuse, config_file, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    override = f"model.name_or_path={copy}"
    words, hint = "its weights cannot be loaded (", "check the id, the network and free disk"
    refuse(USAGE, words, hint, "train", config_file, override)
    weights.unlink()
    words, hint = "has no *.safetensors", "put the weights there, or set model.weights=random to measure only"
    refuse(USAGE, words, hint, "train", config_file, override)


def test_a_model_that_is_not_there(refuse, config_file, tmp_path, rows_file):
    hint = "give a model directory or a hub id"
    override = f"model.name_or_path={tmp_path}/absent"
    refuse(USAGE, f"{tmp_path}/absent: no such directory", hint, "train", config_file, override)
    (tmp_path / "hollow").mkdir()
    hint = "give the directory that `save_pretrained` wrote"
    override = f"model.name_or_path={tmp_path}/hollow"
    refuse(USAGE, "hollow has no config.json", hint, "train", config_file, override)


def test_rows_longer_than_the_model_has_positions(refuse, config_file):
    words = "data.max_length: 513 tokens, but the model has positions for 512"
    refuse(USAGE, words, "set data.max_length=512 or less", "train", config_file, "data.max_length=513")


def test_target_modules_that_match_nothing(refuse, config_file):
    words = "lora.target_modules: query, value match no linear layer inside LlamaForCausalLM"
    hint = "its linear layers are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    refuse(USAGE, words, hint, "train", config_file, "lora.target_modules=[value, query]")


# The machine


def test_a_paged_optimiser_and_offloading_on_a_cpu(refuse, config_file):
    cpu = "hardware.device=cpu"
    words = "training.optimizer=paged_adamw_8bit pages between card and host"
    refuse(DOES_NOT_FIT, words, "", "train", config_file, cpu, "training.optimizer=paged_adamw_8bit")
    words = "training.activation_offloading moves activations off a card"
    refuse(DOES_NOT_FIT, words, "", "train", config_file, cpu, "training.activation_offloading=true")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is asked for")
def test_a_gpu_that_is_not_there(refuse, config_file):
    words = "this run needs a CUDA GPU with "
    refuse(DOES_NOT_FIT, words, "", "train", config_file, "hardware.device=cuda")


def test_less_memory_than_the_run_takes(refuse, config_file):
    refuse(DOES_NOT_FIT, "this run needs ", "", "train", config_file, "hardware.memory=1MiB", "hardware.device=cpu")


@pytest.mark.parametrize("gpu", ["RTX 9090", "24", "GTX"])
def test_an_unknown_card(refuse, config_file, gpu):
    words, hint = (
        ("'24' is not a memory size", "such as --gpu 24GiB") if gpu == "24" else (f"'{gpu}' is not a known card", "")
    )
    refuse(USAGE, f"--gpu: {words}", hint, "preflight", config_file, "--gpu", gpu)


# As a command of its own: nothing but the message reaches the terminal


def test_the_whole_of_what_is_printed(config_file, tmp_path):
    command = [sys.executable, "-m", "finetune.cli", "train", config_file, "data.max_length=513"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert done.stderr == (
        "error: data.max_length: 513 tokens, but the model has positions for 512\n"
        "\n"
        "hint: set data.max_length=512 or less\n"
    )


def test_the_whole_of_what_is_printed_about_data(config_file, tmp_path):
    (tmp_path / "bad.jsonl").write_text(GOOD + "{\n", encoding="utf-8")
    command = [sys.executable, "-m", "finetune.cli", "train", config_file, f"data.train={tmp_path / 'bad.jsonl'}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == BAD_DATA
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line] == [
        f"error: {tmp_path}/bad.jsonl: 1 faulty line",
        "  line 2: expecting property name enclosed in double quotes (column 2)",
        "hint: each line holds one whole JSON object, in UTF-8",
    ]
    assert not (tmp_path / "run").exists()
