"""An exported model says what the trained one says, or is refused; and every other program reads it so."""

from __future__ import annotations

import io
import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import exporting, pipeline
from finetune.config import load_config
from finetune.errors import ConfigError, ModelError, RunDirError
from finetune.export import directory, gguf_file, llama_cpp, log_probabilities

QUICK = ("training.rehearsal=false", "training.sample_answers=0", "training.learning_rate=0.05")


def trained(config_file: Path, *keys: str) -> Path:
    """A run whose adapter has been moved well away from nothing."""
    config = load_config(config_file, [*QUICK, *keys])
    pipeline.train(config, Console(file=io.StringIO()))
    return Path(config.output_dir)


@pytest.fixture
def run(config_file: Path) -> Path:
    return trained(config_file)


def test_the_merged_model_says_what_the_trained_one_says(run, tiny_model):
    said: list[str] = []
    found = exporting.export(run, say=said.append)
    models = found["models"]
    assert models["dequantized"]["divergence"] < 1e-8
    assert models["dequantized"]["loss"] == pytest.approx(models["trained"]["loss"], abs=1e-4)
    assert models["16bit"]["divergence"] > models["dequantized"]["divergence"]
    best = min(("16bit", "dequantized"), key=lambda name: models[name]["loss"])
    assert found["base"] == best
    assert said[-1] == f"merged into: {best}"
    merged = AutoModelForCausalLM.from_pretrained(run / "merged")
    if best == "16bit":
        beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), run / "adapter")
        texts = [list(range(5, 40))]
        torch.testing.assert_close(
            log_probabilities(merged, texts), log_probabilities(beside, texts), atol=1e-4, rtol=1e-4
        )
    assert json.loads((run / "merged" / "export.json").read_text())["base"] == best
    assert not list(run.glob(".merged*"))


@pytest.mark.parametrize("base", ["16bit", "dequantized"])
def test_a_base_that_was_asked_for_is_taken(run, base):
    assert exporting.export(run, base=base, say=lambda line: None)["base"] == base


@pytest.mark.parametrize(
    "keys",
    [
        ["lora={r: 4, alpha: 8, use_dora: true}"],
        ["lora={r: 4, alpha: 8, use_rslora: true, target_modules: all-linear}"],
        ["quantization.type=none"],
    ],
    ids=["dora", "rslora", "unquantised"],
)
def test_other_adapters(config_file, keys):
    found = exporting.export(trained(config_file, *keys), say=lambda line: None)
    assert min(one["divergence"] for name, one in found["models"].items() if name != "trained") < 1e-6


def test_tied_embeddings_stay_tied(run):
    exporting.export(run, say=lambda line: None)
    merged = AutoModelForCausalLM.from_pretrained(run / "merged")
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight


def test_template_tokenizer_and_stop_tokens_go_along(run):
    found = exporting.export(run, say=lambda line: None)
    ours, theirs = (AutoTokenizer.from_pretrained(run / name) for name in ("adapter", "merged"))
    turns = [{"role": "user", "content": "Hello 17."}]
    rendered = [one.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for one in (ours, theirs)]
    assert rendered[0] == rendered[1]
    assert ours(rendered[0])["input_ids"] == theirs(rendered[0])["input_ids"]
    merged = AutoModelForCausalLM.from_pretrained(run / "merged")
    known = merged.generation_config.eos_token_id
    assert sorted(known if isinstance(known, list) else [known]) == found["stop_tokens"]
    assert ours.eos_token_id in found["stop_tokens"]


def test_the_card_says_what_it_was_made_of(run):
    found = exporting.export(run, say=lambda line: None)
    card = (run / "merged" / "README.md").read_text()
    assert card.startswith('---\n{\n  "base_model": ')
    assert f"| trained | {found['models']['trained']['loss']:.4f} | 0.0000 | 100.0% |" in card
    receipt = json.loads((run / "receipt.json").read_text())
    assert receipt["seal"] in card


def test_a_merge_that_changes_the_model_is_refused(run, monkeypatch):
    honest = exporting.merge

    def wrong(model, stored):
        for module in model.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling["default"] *= -300
        return honest(model, stored)

    monkeypatch.setattr(exporting, "merge", wrong)
    with pytest.raises(ModelError, match=r"merging into the 16bit base changes what the model says by [\d.]+ nats"):
        exporting.export(run, say=lambda line: None)
    assert not (run / "merged").exists()
    assert not list(run.glob(".merged*"))


def test_what_does_not_read_back_is_refused(run, monkeypatch):
    honest = directory.save_directory

    def damaged(model, tokenizer, stops, folder):
        honest(model, tokenizer, stops, folder)
        file = folder / "model.safetensors"
        tensors = load_file(file)
        name = sorted(tensors)[-1]
        tensors[name] = tensors[name] + 0.01
        save_file(tensors, file, metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "save_directory", damaged)
    with pytest.raises(ModelError, match="the merged model does not read back as it was merged"):
        exporting.export(run, say=lambda line: None)
    assert not (run / "merged").exists()


def test_what_cannot_be_exported(run, config_file, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(RunDirError, match="there is there already") as caught:
        exporting.export(run, output=tmp_path / "there")
    assert caught.value.hint == "remove it, or name another directory with --output"
    with pytest.raises(RunDirError, match="is not a run directory"):
        exporting.export(tmp_path / "there")
    other = trained(config_file, "quantization.type=none", f"output_dir={tmp_path / 'dense'}")
    with pytest.raises(ConfigError, match="--base dequantized: the run's base was not quantised"):
        exporting.export(other, base="dequantized")
    random = trained(config_file, "model.weights=random", f"output_dir={tmp_path / 'random'}")
    with pytest.raises(ConfigError, match="random: there is nothing to export"):
        exporting.export(random)


def test_a_run_whose_rows_are_gone_is_exported_without_a_loss(run, held_out_file):
    held_out_file.unlink()
    said: list[str] = []
    found = exporting.export(run, base="dequantized", say=said.append)
    assert found["models"]["dequantized"]["loss"] is None
    assert said[0].startswith("no held-out loss: ")


def test_an_upload_that_fails_says_where_it_is(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"me/model: cannot be uploaded \(.*\); it is in ") as caught:
        exporting.push(run, "me/model")
    assert "hf upload" in caught.value.hint


# llama.cpp


# scripts/test installs xllamacpp with finetune[dev]; its wheels are for fewer systems than finetune is.
@pytest.mark.skipif(not llama_cpp.installed(), reason="neither xllamacpp nor llama-cpp-python is installed")
def test_llama_cpp_answers_as_transformers_does(run):
    found = exporting.export(run, gguf=True, say=lambda line: None)["gguf"]
    assert list(found["packages"]) == llama_cpp.installed()
    assert (found["file"], found["prompts"]) == ("merged.gguf", 8)
    for package, one in found["packages"].items():
        assert one["same_text"] == 8, package
        assert one["version"] == metadata.version(package)
    assert GGUFReader(run / "merged" / "merged.gguf").fields["general.name"].contents() == "merged"


@pytest.mark.skipif(not llama_cpp.installed(), reason="neither xllamacpp nor llama-cpp-python is installed")
def test_a_file_that_reads_prompts_otherwise_is_refused(run, monkeypatch):
    honest = gguf_file.add_tokenizer

    def other(writer, *given):
        honest(writer, *given)
        writer.kv_data[0]["tokenizer.chat_template"].value += "{{ 'and more' }}"

    monkeypatch.setattr(gguf_file, "add_tokenizer", other)
    with pytest.raises(ModelError, match=r"llama\.cpp \(\S+\) reads the prompts as \[.*\] tokens, not as \["):
        exporting.export(run, gguf=True, say=lambda line: None)
    assert not (run / "merged").exists()


def test_a_family_without_a_file_is_refused(run, monkeypatch):
    monkeypatch.setattr("finetune.export.gguf_families.FAMILIES", {})
    with pytest.raises(ModelError, match="no GGUF is written of model_type 'llama'"):
        exporting.export(run, gguf=True, say=lambda line: None)
    assert not (run / "merged").exists()
