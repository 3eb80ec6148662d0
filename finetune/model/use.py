"""Using what was trained: the base model with a saved adapter, and its answers."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune.errors import RunDirError
from finetune.model.build import build_base
from finetune.spec import RunSpec
from finetune.spec.adapter_files import require_plain
from finetune.spec.skeleton import cast_unquantized


def load_trained(spec: RunSpec, adapter: Path) -> PeftModel:
    """The base model of a run with the adapter in `adapter`, for evaluation and generation.

    Raises RunDirError where the directory holds no adapter, or one that cannot be read.
    """
    if not (adapter / "adapter_model.safetensors").is_file():
        raise RunDirError(f"{adapter} holds no adapter", "train first: `finetune train CONFIG`")
    base = build_base(spec)
    if spec.config.model.fp32_unquantized:
        cast_unquantized(base)
    return adapted(base, adapter, getattr(torch, spec.config.lora.dtype))


def adapted(base: PreTrainedModel, adapter: Path, dtype: torch.dtype) -> PeftModel:
    """A base model with a saved adapter of this type on it, frozen. Raises RunDirError where it cannot be read."""
    try:
        require_plain(adapter)
        model = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunDirError(
            f"{adapter}: the adapter cannot be loaded ({first})",
            "its files are damaged, or of another model: train again",
        ) from None
    for parameter in model.parameters():
        if parameter.requires_grad:  # PEFT has made a bfloat16 adapter float32
            parameter.data = parameter.data.to(dtype)
    return model.requires_grad_(False).eval()


@torch.no_grad()
def answer(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, *, max_new_tokens: int) -> str:
    """The model's greedy continuation of a rendered prompt, without special tokens."""
    add_bos = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token)) and not tokenizer.chat_template
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=add_bos).to(model.device)
    was_training = model.training
    model.eval()
    output = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop_tokens(model, tokenizer),
    )
    model.train(was_training)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def stop_tokens(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Stop tokens of the model's generation configuration, and the tokenizer's own."""
    known = model.generation_config.eos_token_id
    listed = known if isinstance(known, list) else [known]
    return sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None})
