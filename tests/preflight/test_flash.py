"""FlashAttention-2 stood in for: every family that has it, what padding costs, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import FAMILIES, write_family
from transformers.integrations import flash_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from finetune.config import RunConfig
from finetune.preflight import Batch, Prediction, find_card, predict
from finetune.spec import describe


def predicted(name: str, folder: Path, batch: Batch, attention: str = "flash_attention_2") -> Prediction:
    config = {
        "model": {"name_or_path": str(write_family(name, folder)), "attention": attention},
        "lora": {"target_modules": "all-linear"},
        "data": {"train": "x", "max_length": batch.tokens, "packing": batch.packed},
        "training": {"micro_batch_size": batch.rows, "gradient_checkpointing": False},
        "output_dir": "x",
    }
    return predict(describe(RunConfig.model_validate(config), find_card("24GiB")), batch)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_traced_with_it(name: str, tmp_path: Path) -> None:
    assert predicted(name, tmp_path, Batch(2, 64)).allocated > 0


def test_padding_is_cut_out_at_the_price_of_copies(tmp_path: Path) -> None:
    whole, padded = (predicted("llama3", tmp_path, Batch(4, 128, padded=padded)) for padded in (False, True))
    assert padded.allocated > whole.allocated


def test_no_scores_and_no_mask_are_held(tmp_path: Path) -> None:
    """A pack of 512 tokens: PyTorch's kernels need a mask of s x s, this one does not; eager attention holds scores."""
    batch = Batch(2, 512, packed=True)
    flash, sdpa, eager = (
        predicted("llama3", tmp_path, batch, attention).allocated
        for attention in ("flash_attention_2", "sdpa", "eager")
    )
    assert flash < sdpa < eager


def test_the_libraries_are_as_they_were(tmp_path: Path) -> None:
    before = flash_attention._flash_attention_forward, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"]
    predicted("llama2", tmp_path, Batch(1, 32))
    assert before == (flash_attention._flash_attention_forward, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
