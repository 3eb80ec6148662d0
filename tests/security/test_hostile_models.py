"""Model directories, adapters and checkpoints from strangers: no code of theirs runs, and each is refused in words."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from finetune.config import load_config
from finetune.embeddings import open_encoder
from finetune.errors import ModelError, RunDirError
from finetune.model import build_model, load_trained
from finetune.spec import describe
from finetune.training.saved_state import SavedState

CONFIGURATION = 2
CLASSES = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
}


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "stranger"))


@pytest.fixture
def hostile(model: Path, canary: Path) -> Path:
    """A model of an unknown type whose classes are in a file of its own, which writes the canary when imported."""
    (model / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).write_text('ran')\n")
    _change(model / "config.json", model_type="evil", auto_map=CLASSES)
    _change(model / "tokenizer_config.json", auto_map=CLASSES, tokenizer_class="EvilTokenizer")
    return model


def _change(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    "arguments",
    [("preflight",), ("plan",), ("train", "--dry-run"), ("data", "check"), ("data", "preview")],
    ids=" ".join,
)
def test_a_model_with_code_of_its_own_is_refused(refused, config_file, hostile, arguments):
    words = "set model.trust_remote_code=true"
    refused(CONFIGURATION, words, *arguments, config_file, f"model.name_or_path={hostile}")


def test_a_known_model_is_built_of_our_own_classes(command, config_file, model, canary):
    (model / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).write_text('ran')\n")
    _change(model / "config.json", auto_map=CLASSES)
    code, _, err = command("preflight", config_file, f"model.name_or_path={model}")
    assert code == 0, err


def test_an_encoder_with_code_of_its_own_is_refused(hostile):
    with pytest.raises(ModelError, match=r"cannot be loaded .*contains custom code"):
        open_encoder(str(hostile))


# Weights


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_weights_that_are_a_pickle_alone(refused, config_file, model, evil_pickle, name):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(evil_pickle)
    words = f"holds its weights in a pickle ({name}), which can run code when opened"
    refused(CONFIGURATION, words, "train", config_file, f"model.name_or_path={model}")


def test_a_pickle_renamed_to_safetensors(config_file, model, evil_pickle):
    _refuse_weights(config_file, model, evil_pickle)


def test_a_safetensors_file_whose_header_claims_a_terabyte(config_file, model):
    _refuse_weights(config_file, model, struct.pack("<Q", 2**40) + b"{}")


def test_a_tensor_that_claims_a_terabyte(config_file, model):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    _refuse_weights(config_file, model, struct.pack("<Q", len(header)) + header)


def _refuse_weights(config_file: Path, model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        build_model(describe(load_config(config_file, [f"model.name_or_path={model}"])))


def test_an_index_that_leads_out_of_the_directory(tmp_path, config_file, model):
    (model / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (model / "decoy.safetensors").write_bytes((tmp_path / "outside.safetensors").read_bytes())
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"'\.\./outside\.safetensors' is no"):
        build_model(describe(load_config(config_file, [f"model.name_or_path={model}"])))


@pytest.mark.parametrize(
    "index",
    [
        "[1]",
        "{}",
        '{"metadata": 1, "weight_map": 3}',
        '{"metadata": {}, "weight_map": {"lm_head.weight": 3}}',
        "[" * 90_000,
    ],
    ids=["list", "nothing", "number", "number in it", "deep"],
)
def test_an_index_that_is_none(config_file, model, index):
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"its weights cannot be loaded|index\.json: cannot be read|3 is no"):
        build_model(describe(load_config(config_file, [f"model.name_or_path={model}"])))


@pytest.mark.parametrize("counts", [(2**62, 1), (1, 2**62)], ids=["tensors", "fields"])
def test_a_gguf_file_of_absurd_counts(refused, config_file, tmp_path, counts):
    file = tmp_path / "bomb.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(64))
    refused(CONFIGURATION, f"{file}", "preflight", config_file, f"model.name_or_path={file}")


# Adapters and checkpoints


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The directory of an adapter, without weights."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def test_an_adapter_that_is_a_renamed_pickle(config_file, adapter, evil_pickle):
    (adapter / "adapter_model.safetensors").write_bytes(evil_pickle)
    with pytest.raises(RunDirError, match="the adapter cannot be loaded"):
        load_trained(describe(load_config(config_file)), adapter)


def test_an_adapter_that_is_a_pickle(config_file, adapter, evil_pickle):
    (adapter / "adapter_model.bin").write_bytes(evil_pickle)
    with pytest.raises(RunDirError, match="holds no adapter"):
        load_trained(describe(load_config(config_file)), adapter)


def test_an_adapter_that_names_a_module_to_import(config_file, adapter, canary, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_megatron.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).write_text('ran')\n")
    (adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    _change(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil_megatron")
    with pytest.raises(RunDirError, match="asks for a module by name"):
        load_trained(describe(load_config(config_file)), adapter)


@pytest.mark.parametrize("name", ["training_state.safetensors", "training_state.json"])
def test_a_checkpoint_that_is_a_renamed_pickle(tmp_path, evil_pickle, name):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    files = {
        "training_state.safetensors": struct.pack("<Q", 2) + b"{}",
        "training_state.json": b"{}",
        name: evil_pickle,
    }
    for file, data in files.items():
        (folder / file).write_bytes(data)
    with pytest.raises(RunDirError, match="the run cannot go on from it"):
        SavedState(folder)
