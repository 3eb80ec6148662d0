"""Where a model comes from: what is refused, and with which words; GGUF files."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune.config import ModelConfig
from finetune.errors import ModelError
from finetune.spec import load_tokenizer, locate_model
from finetune.spec.source import require_weights


def locate(path: Path | str, **options):
    return locate_model(ModelConfig(name_or_path=str(path), **options))


def test_the_three_kinds(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert locate(tiny_model).kind == "directory"
    assert locate("org/name").kind == "hub"
    assert locate(file).kind == "gguf"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "nowhere: no such directory"),
        ("/no/such/place", "/no/such/place: no such directory"),
        ("no.gguf", "no.gguf: no such file"),
    ],
)
def test_missing_paths(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        locate(name)


def test_a_directory_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        locate(tmp_path)


def test_pickles_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds its weights in a pickle \(pytorch_model.bin\)") as caught:
        locate(model)
    assert "save it again as safetensors" in caught.value.hint


def test_missing_weights_are_named(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*.safetensors"):
        require_weights(locate(model))


def test_a_directory_without_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    for file in model.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no tokenizer") as caught:
        load_tokenizer(locate(model))
    assert "tokenizer.json" in caught.value.hint


def test_chat_templates(tiny_model: Path, tmp_path: Path) -> None:
    source = locate(tiny_model)
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    assert load_tokenizer(source, str(template)).chat_template == "{{ messages[0]['content'] }}"
    assert load_tokenizer(source, "none").chat_template is None
    with pytest.raises(ModelError, match=r"data.chat_template: .*missing.jinja: cannot be read"):
        load_tokenizer(source, str(tmp_path / "missing.jinja"))


def test_a_pad_token_is_always_set(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    tokenizer.save_pretrained(copy)
    assert load_tokenizer(locate(copy)).pad_token == "<|im_end|>"


@pytest.fixture
def gguf_file(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as a GGUF file, written by the format's own library, query and key rows in GGUF's order."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    config, path = model.config, tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_vocabulary(writer, tiny_model)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(_gguf_name(name), _gguf_order(name, tensor, config).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, tiny_model: Path) -> None:
    import json

    saved = json.loads((tiny_model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = saved["model"]["vocab"]
    special = {token["content"] for token in saved["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in saved["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def _gguf_name(name: str) -> str:
    parts = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def _gguf_order(name: str, tensor: torch.Tensor, config) -> np.ndarray:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads:
        rows, columns = tensor.shape
        tensor = tensor.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return tensor.numpy()


def test_a_gguf_file_becomes_a_dense_directory_once(
    gguf_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    source = locate(gguf_file)
    assert source.config().hidden_size == 64
    directory = Path(source.weights_dir())
    dense = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    original = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for name, tensor in original.state_dict().items():
        torch.testing.assert_close(dense.state_dict()[name], tensor, atol=0, rtol=2**-8, msg=name)
    tokenizer = load_tokenizer(source)
    assert tokenizer("a<|im_end|>")["input_ids"][-1] == tokenizer.eos_token_id == 2
    first = (directory / "model.safetensors").stat().st_mtime_ns
    assert Path(source.weights_dir()) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == first
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_file_that_is_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"model.gguf"):
        locate(file).config()
    with pytest.raises(ModelError, match=r"model.gguf: transformers cannot read this GGUF file"):
        locate(file).weights_dir()
    assert not list((tmp_path / "cache").rglob("*.partial*"))
