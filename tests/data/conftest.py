"""Fixtures of the data tests: the tiny tokenizer under any chat template, and spans that can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetune.data import LoadedData

# Libraries are imported where they are used: tests of rows and formats need none of them.

INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture
def chat_tokenizer(tiny_model: Path) -> Callable[..., PreTrainedTokenizerBase]:
    """The tiny byte-level tokenizer with another chat template, stop token, BOS and further special tokens."""
    from transformers import AutoTokenizer

    def make(
        template: str | None, *, eos: str = "</s>", bos: str = "<s>", special: Sequence[str] = ()
    ) -> PreTrainedTokenizerBase:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.add_special_tokens(
            {"eos_token": eos, "pad_token": eos, "bos_token": bos, "additional_special_tokens": list(special)}
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture
def metaspace() -> PreTrainedTokenizerBase:
    """As Llama 2's: spaces are ▁, unknown characters their bytes, BOS is added; prompts are in [INST]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    vocabulary = {token: index for index, token in enumerate(vocabulary)}
    merges = [("▁", "H"), ("H", "e"), ("l", "l"), ("▁", "S")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        chat_template=INST,
    )  # fmt: skip


@pytest.fixture
def load(config_file: Path) -> Callable[..., LoadedData]:
    """`load_data` of the shared configuration with overrides."""
    from finetune.config import load_config
    from finetune.data import load_data
    from finetune.spec import describe

    def of(*overrides: str) -> LoadedData:
        return load_data(describe(load_config(config_file, list(overrides))))

    return of
