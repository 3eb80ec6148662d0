"""Weights that are absent, damaged, unsafe or of another model are refused in words, never filled with noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.config import load_config
from finetune.errors import ModelError
from finetune.model import build_model
from finetune.spec import describe

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def refused(folder: Path, config_file: Path, *overrides: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        build_model(describe(load_config(config_file, [f"model.name_or_path={folder}", *overrides])))
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


def rewrite(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Saves the weights again with some replaced or, where None, left out."""
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, metadata={"format": "pt"})


def test_no_weights(folder, config_file):
    (folder / "model.safetensors").unlink()
    error = refused(folder, config_file)
    assert error.message == f"model.name_or_path: {folder} has no *.safetensors"
    assert error.hint == "put the weights there, or set model.weights=random to measure only"


def test_a_pickle_is_not_opened(folder, config_file, tmp_path):
    """The pickle here would make a file when opened."""

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    error = refused(folder, config_file)
    assert "holds its weights in a pickle (pytorch_model.bin), which can run code when opened" in error.message
    assert error.hint == "save it again as safetensors: model.save_pretrained(directory)"
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all" * 99, None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_file(folder, config_file, content):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    error = refused(folder, config_file)
    assert error.message.startswith(f"{folder}: its weights cannot be loaded (")


def test_a_missing_shard(folder, config_file):
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name == names[0])}-of-00002.safetensors" for name in names}
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    assert "model-00002-of-00002.safetensors" in refused(folder, config_file).message


@pytest.mark.parametrize("quantised", ["nf4", "none"])
def test_a_missing_weight_is_not_made_up(folder, config_file, quantised):
    rewrite(folder, {UP: None, NORM: None})
    error = refused(folder, config_file, f"quantization.type={quantised}")
    assert error.message == f"{folder}: its weights do not fit its config.json: {UP} is missing, and 1 more"
    assert error.hint == "fetch or save the model again: some of its files are damaged or of another model"


@pytest.mark.parametrize("quantised", ["nf4", "none"])
@pytest.mark.parametrize(("name", "wanted"), [(UP, [128, 64]), (NORM, [64])])
def test_a_weight_of_another_shape_is_named(folder, config_file, name, wanted, quantised):
    rewrite(folder, {name: torch.ones([32, *wanted[1:]])})
    error = refused(folder, config_file, f"quantization.type={quantised}")
    assert error.message.endswith(f"{name} is {[32, *wanted[1:]]}, not {wanted}")
