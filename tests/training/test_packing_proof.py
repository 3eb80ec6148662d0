"""Before a packed run starts, its packs are compared with their rows; where rows see each other it is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from assembly import Assembly, assemble
from datasets import Dataset
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import DataError
from finetune.training import prove_packing

PACKED = ["data.packing=true", "data.eval=null", "data.max_length=128"]


def packed(config_file: Path, *overrides: str) -> Assembly:
    return assemble(config_file, *PACKED, *overrides)


def without_positions(assembly: Assembly) -> None:
    """A collator that gives an attention mask, so that transformers builds no block masks (transformers#46634)."""
    collate = assembly.trainer.data_collator

    def wrongly(rows):
        batch = collate(rows)
        return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}

    assembly.trainer.data_collator = wrongly


@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
def test_rows_of_a_pack_do_not_see_each_other(config_file, attention) -> None:
    assembly = packed(config_file, f"model.attention={attention}", "lora.dropout=0.5")
    before, random = assembly.adapter(), torch.get_rng_state()
    found = prove_packing(assembly.trainer)
    assert found.rows > 1 and 0 <= found.difference < 1e-5
    assert f"of {found.rows} rows in a pack of {found.tokens} tokens none sees another" in found.note()
    assert assembly.model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in assembly.adapter().items())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_see_each_other_are_refused(config_file, attention) -> None:
    assembly = packed(config_file, f"model.attention={attention}")
    without_positions(assembly)
    with pytest.raises(DataError) as caught:
        prove_packing(assembly.trainer)
    assert caught.value.message == (
        f"data.packing: a row of a pack changes with the row before it (attention {attention}): the rows see each other"
    )
    assert caught.value.hint == "set model.attention=sdpa, or data.packing=false"
    assert caught.value.exit_code == 4


def test_positions_that_do_not_begin_anew_are_refused(config_file) -> None:
    """Block masks alone are not enough: the rows of a pack are separate, but each jumps ahead after its first token."""
    assembly = packed(config_file, "model.attention=sdpa")
    collate = assembly.trainer.data_collator

    def shifted(rows):
        batch = collate(rows)
        several = len(rows[0]["seq_lengths"]) > 1
        return {**batch, "position_ids": batch["position_ids"] + 40 * (batch["position_ids"] > 0) * several}

    assembly.trainer.data_collator = shifted
    with pytest.raises(DataError, match=r"a row scores otherwise in a pack than alone, by .* where 1e-04 is rounding"):
        prove_packing(assembly.trainer)


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_bfloat16_is_within_its_own_tolerance(config_file, attention) -> None:
    """By variable length the numbers are the same to the last bit: on a processor each row is computed by itself."""
    bf16 = ["quantization.compute_dtype=bfloat16", f"model.attention={attention}"]
    found = prove_packing(packed(config_file, *bf16).trainer)
    assert (found.difference == 0) == (attention == "varlen") and found.difference < 3e-2


def test_where_every_pack_holds_one_row_there_is_nothing_to_prove(config_file) -> None:
    assembly = packed(config_file)
    assembly.trainer.train_dataset = Dataset.from_list([{"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [2]}])
    assert prove_packing(assembly.trainer) is None


def test_the_line_says_so_before_it_trains(config_file, tmp_path) -> None:
    out = io.StringIO()
    config = load_config(config_file, [*PACKED, "training.max_steps=1", f"output_dir={tmp_path / 'out'}"])
    pipeline.train(config, Console(file=out, width=400))
    assert "packing: of " in out.getvalue() and "none sees another (bitwise)" in out.getvalue()
