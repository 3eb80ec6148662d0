"""A GGUF file turned into a dense directory, once, so that it can be quantised and trained like any other model."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cache_dir() -> Path:
    """Where converted models are kept: `$FINETUNE_CACHE`, else `~/.cache/finetune`."""
    return Path(os.environ.get("FINETUNE_CACHE") or "~/.cache/finetune").expanduser()


def dense_directory(file: Path) -> Path:
    """The directory that holds `file` dequantised to bfloat16 safetensors, whether it exists yet or not.

    Named by the file's path, size and time of change, so that a changed file is converted again.
    """
    stat = file.stat()
    identity = f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return cache_dir() / "models" / f"{file.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def convert(file: Path) -> Path:
    """Writes the dense directory of a GGUF file where it does not exist yet, and returns it.

    Raises ModelError where transformers cannot read the file. The directory appears whole or not at all.
    """
    target = dense_directory(file)
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        _write_dense(file, partial)
        partial.rename(target)
    except OSError as error:
        raise ModelError(
            f"{file}: cannot be converted ({error})", f"free disk space under {cache_dir()}, or set FINETUNE_CACHE"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_dense(file: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(file.parent), file.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
        # Without dequantize=True the model could neither be saved nor quantised again.
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            trust_remote_code=False,
        )
    except OSError:
        raise
    except Exception as error:
        raise ModelError(
            f"{file}: transformers cannot read this GGUF file ({error})", "use a file of a family it knows"
        ) from error
    _name_special_tokens(tokenizer, file)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Sets BOS, EOS and padding as the file's own metadata names them: transformers before 5.23 guesses."""
    from gguf import GGUFReader

    fields = GGUFReader(str(file)).fields
    for ours, theirs in {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}.items():
        field = fields.get(f"tokenizer.ggml.{theirs}_token_id")
        if field is not None:
            setattr(tokenizer, ours, tokenizer.convert_ids_to_tokens(int(field.contents())))
