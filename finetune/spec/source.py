"""Where a model comes from, and what is read of it before any weight: its configuration and tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from finetune.config import ModelConfig
from finetune.errors import ModelError
from finetune.regular_file import read_bytes
from finetune.spec import gguf

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
SIZES = {
    "vocab_size": 2**22,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**12,
}
"""Fields that every published config.json of a decoder states, under these names or the family's own, and what none
of them comes near: a thousand million layers would be made one by one."""
LONGEST_TEMPLATE = 2**20
"""Bytes of a chat template; published ones have 20,000."""
OWN_AGAIN = "fetch the model's own config.json again"


@dataclass(frozen=True)
class ModelSource:
    """A located model: `path` is its directory or GGUF file, None for a hub id."""

    kind: Literal["hub", "directory", "gguf"]
    name: str
    path: Path | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def config(self) -> PretrainedConfig:
        """The model's architecture; raises ModelError where it cannot be read."""
        if self.kind == "hub":
            return self._hub_config()
        if self.kind == "gguf" and not gguf.dense_directory(self.path).exists():
            return self._read(AutoConfig, str(self.path.parent), gguf_file=self.path.name)
        if self.kind == "directory":
            self._check_stated(self.stated())
        return self._read(AutoConfig, self.weights_dir())

    def stated(self) -> dict[str, Any]:
        """The fields of a local model's config.json as they stand there; raises ModelError where it cannot be read."""
        try:
            fields = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._unreadable(f"config.json: {error}", "config.json must be a JSON object in UTF-8") from None
        if not isinstance(fields, dict):
            raise self._unreadable(
                f"config.json: a {type(fields).__name__}, not an object", "config.json must be a JSON object in UTF-8"
            )
        return fields

    def _check_stated(self, fields: dict[str, Any]) -> None:
        name = str(fields.get("model_type") or "")
        if name not in CONFIG_MAPPING and "auto_map" not in fields:
            unknown = f"model_type {name!r} is unknown to transformers {transformers.__version__}"
            raise self._unreadable(unknown if name else "config.json has no model_type", _hint(self.kind))
        inner = fields.get("text_config")
        for stated in (fields, inner if isinstance(inner, dict) else {}):
            for size, most in SIZES.items():
                if isinstance(stated.get(size), int) and not 1 <= stated[size] <= most:
                    raise self._unreadable(f"config.json has {size} = {str(stated[size])[:40]}", OWN_AGAIN)

    def weights_dir(self) -> str:
        """What `from_pretrained` loads: a directory (converted from GGUF where needed) or a hub id."""
        if self.kind == "gguf":
            return str(gguf.convert(self.path))
        return self.name if self.kind == "hub" else str(self.path)

    def files(self) -> Path | None:
        """The directory of its files on this machine; None for a GGUF file, and where the hub's cache has none."""
        if self.kind != "hub":
            return self.path if self.kind == "directory" else None
        found = try_to_load_from_cache(self.name, "config.json", revision=self.revision)
        return Path(found).parent if isinstance(found, str) else None

    def _hub_config(self) -> PretrainedConfig:
        stored = resources.files("finetune.spec").joinpath("model_configs", *self.name.split("/"), "config.json")
        if self.revision is None and stored.is_file():
            # Published architectures do not change; the audit compares with what was downloaded.
            fields = json.loads(stored.read_text(encoding="utf-8"))
            return AutoConfig.for_model(fields.pop("model_type"), **fields)
        return self._read(AutoConfig, self.name, revision=self.revision)

    def _read(self, factory: type, where: str, **options: object) -> PretrainedConfig:
        try:
            return factory.from_pretrained(where, trust_remote_code=self.trust_remote_code, **options)
        except StrictDataclassError as error:
            # A field of a wrong type or sizes that do not fit together; the last line says which.
            reason = str(error).strip().splitlines()[-1].strip()
            raise self._unreadable(reason, OWN_AGAIN) from None
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise self._unreadable(reason, _hint(self.kind, reason)) from None

    def _unreadable(self, reason: str, hint: str) -> ModelError:
        return ModelError(f"{self.name}: its configuration cannot be read ({reason})", hint)


def _hint(kind: str, reason: str = "") -> str:
    if "custom code" in reason:  # transformers' words for code that the model brings
        return "read that code first; where you trust all of it, set model.trust_remote_code=true to run it"
    if kind == "hub":
        return "check the id and the network; a gated model needs `hf auth login`; a local directory needs no network"
    return "config.json must name a model_type that transformers knows, such as llama; a newer transformers knows more"


def locate_model(model: ModelConfig) -> ModelSource:
    """Finds the model that `model.name_or_path` names, without reading weights.

    Raises ModelError for a missing path, a directory without config.json, and weights that are pickles.
    """
    path = Path(model.name_or_path).expanduser()
    common = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model.name_or_path: {path}: no such file", "give the path of an existing .gguf file")
        return ModelSource("gguf", model.name_or_path, path, **common)
    if path.is_dir():
        _check_directory(path, model)
        return ModelSource("directory", model.name_or_path, path, **common)
    if path.is_file():
        raise ModelError(f"model.name_or_path: {path} is a file", "give a directory, a .gguf file or a hub id")
    if model.name_or_path.startswith(("/", ".", "~")) or model.name_or_path.count("/") > 1:
        raise ModelError(f"model.name_or_path: {path}: no such directory", "give a model directory or a hub id")
    return ModelSource("hub", model.name_or_path, None, **common)


def _check_directory(path: Path, model: ModelConfig) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"model.name_or_path: {path} has no config.json", "give the directory that `save_pretrained` wrote"
        )
    if model.weights == "random" or any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"model.name_or_path: {path} holds its weights in a pickle ({pickles[0]}), which can run code when opened",
            "save it again as safetensors: model.save_pretrained(directory)",
        )


def require_weights(source: ModelSource) -> None:
    """Raises ModelError where a local directory has no safetensors to load, or its index names files elsewhere."""
    if source.kind != "directory":
        return
    if not any(source.path.glob("*.safetensors")):
        raise ModelError(
            f"model.name_or_path: {source.path} has no *.safetensors",
            "put the weights there, or set model.weights=random to measure only",
        )
    for index in source.path.glob("*.safetensors.index.json"):
        _require_inside(index)


def _require_inside(index: Path) -> None:
    """Raises ModelError where an index of weights is none, or leads out of its directory."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index}: cannot be read ({error})", "fetch the file again") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index}: {name!r} is no *.safetensors of its directory", "fetch the model again from where you trust"
            )


def load_tokenizer(source: ModelSource, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with another chat template where one is given; its pad token is always set.

    Raises ModelError where there is no fast tokenizer or the template file cannot be read.
    """
    where = source.weights_dir()
    if source.kind == "directory" and not any((source.path / name).is_file() for name in TOKENIZERS):
        raise ModelError(
            f"model.name_or_path: {source.path} has no tokenizer", f"copy its files there, such as {TOKENIZERS[0]}"
        )
    options = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{source.name}: its tokenizer cannot be loaded ({first})", _hint(source.kind, first)
        ) from None
    if not tokenizer.is_fast:
        raise ModelError(
            f"{source.name}: its tokenizer is not a fast one", "add its tokenizer.json: masks need offsets"
        )
    if tokenizer.pad_token is None:
        # Only fills attention-masked positions; labels there are set by length, never by comparing with pad.
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    return tokenizer


def _read_template(chat_template: str) -> str | None:
    if chat_template == "none":
        return None
    try:
        return read_bytes(Path(chat_template).expanduser(), LONGEST_TEMPLATE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"data.chat_template: {chat_template}: cannot be read ({error})", "give the path of a Jinja file, or none"
        ) from None
