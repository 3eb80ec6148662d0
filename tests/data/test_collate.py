"""Batches: what is padded with what, and rows of a pack that do not see each other."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.data.collate import Collator
from finetune.data.encode import IGNORED, Encoded, Encoder
from finetune.data.formats import to_examples
from finetune.data.packs import to_dataset
from finetune.data.rows import Row

PAD = 2


def rows(*lengths: int, seed: int = 0) -> list[Encoded]:
    """Rows of random tokens, the first half of each not trained."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, 64, (length,), generator=generator).tolist() for length in lengths]
    labels = [[IGNORED] * (len(ids) // 2) + ids[len(ids) // 2 :] for ids in drawn]
    return [Encoded(ids, label, len(ids)) for ids, label in zip(drawn, labels, strict=True)]


def packs(found: list[Encoded], max_length: int) -> list[dict]:
    return list(to_dataset(found, packing=True, max_length=max_length))


def held(pack: dict) -> list[slice]:
    """Where each row of a pack stands."""
    return [slice(*bounds) for bounds in pairwise([0, *accumulate(pack["seq_lengths"])])]


class TestPadding:
    def test_rows_are_padded_on_the_right_and_masked(self):
        batch = Collator(PAD)(
            [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [IGNORED]}]
        )
        assert batch["input_ids"].tolist() == [[5, 6, 7], [8, PAD, PAD]]
        assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED] * 3]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert (batch["rows"].tolist(), batch["tokens"].tolist()) == ([1, 1], [3, 1])
        assert "position_ids" not in batch

    def test_the_stop_token_is_trained_and_padding_is_not_though_they_are_one_token(self, chat_tokenizer):
        template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
        tokenizer = chat_tokenizer(template, eos="<|im_end|>")
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        values = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a longer answer than the other"}]
        examples, _ = to_examples([Row(value, f"line {index}", index) for index, value in enumerate(values)])
        encoder = Encoder(tokenizer, loss_on="assistant", max_length=99)
        encoded = [encoder.encode(example) for example in examples]
        batch = Collator(tokenizer.pad_token_id)([{"input_ids": e.input_ids, "labels": e.labels} for e in encoded])
        short = len(encoded[0].input_ids)
        assert batch["labels"][0, short - 1] == tokenizer.eos_token_id
        assert batch["input_ids"][0, short:].unique().tolist() == [tokenizer.pad_token_id]
        assert batch["labels"][0, short:].unique().tolist() == [IGNORED]


class TestPacks:
    def test_positions_start_again_at_each_row_and_in_the_padding(self):
        full = {"input_ids": [5] * 6, "labels": [5] * 6, "seq_lengths": [4, 2]}
        short = {"input_ids": [6] * 3, "labels": [6] * 3, "seq_lengths": [1, 2]}
        batch = Collator(PAD)([full, short])
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 0, 1, 0, 1, 2]]
        assert batch["input_ids"][1].tolist() == [6, 6, 6, PAD, PAD, PAD]
        assert batch["labels"][1].tolist() == [6, 6, 6, IGNORED, IGNORED, IGNORED]
        assert (batch["rows"].tolist(), batch["tokens"].tolist()) == ([2, 2], [6, 3])
        assert "attention_mask" not in batch

    def test_no_row_is_cut_or_lost(self):
        found = rows(*range(1, 33))
        packed = packs(found, 32)
        assert all(len(pack["input_ids"]) <= 32 for pack in packed)
        whole = [(pack["input_ids"][place], pack["labels"][place]) for pack in packed for place in held(pack)]
        assert sorted(whole) == sorted((row.input_ids, row.labels) for row in found)

    def test_a_rows_first_token_is_not_learned_from_the_row_before(self, chat_tokenizer):
        """The loss shifts labels by one over the whole pack."""
        encoder = Encoder(chat_tokenizer(None), loss_on="all", max_length=99)
        examples, _ = to_examples([Row({"text": text}, text, 0) for text in ("one two", "three", "four five six")])
        (pack,) = packs([encoder.encode(example) for example in examples], 99)
        assert all(pack["labels"][place][0] == IGNORED for place in held(pack))


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, attn_implementation=request.param,
    )  # fmt: skip
    return LlamaForCausalLM(config).float().eval()


@torch.no_grad()
def logits(model: LlamaForCausalLM, batch: dict) -> torch.Tensor:
    """Logits (batch, length, vocabulary) of a batch, as a trainer calls the model."""
    return model(
        **{key: batch[key] for key in batch if key not in ("labels", "rows", "tokens")}, use_cache=False
    ).logits


class TestIsolation:
    """Rows in a pack have the logits they have alone, in batches of packs of unequal length."""

    FOUND = rows(17, 3, 40, 1, 22, 9, 30, 12, 5)

    def test_logits_in_a_pack_are_those_of_the_row_alone(self, model):
        packed = packs(self.FOUND, 50)
        assert len({len(pack["input_ids"]) for pack in packed}) > 1
        together = logits(model, Collator(PAD)(packed))
        for index, pack in enumerate(packed):
            for place in held(pack):
                alone = logits(model, {"input_ids": torch.tensor([pack["input_ids"][place]])})[0]
                assert (together[index, place] - alone).abs().max() < 1e-5

    def test_a_changed_row_changes_no_other(self, model):
        packed = packs(self.FOUND, 50)
        before = logits(model, Collator(PAD)(packed))
        pack = packed[0]
        changed = held(pack)[0]
        pack["input_ids"][changed] = [63 - token for token in pack["input_ids"][changed]]
        after = logits(model, Collator(PAD)(packed))
        same = torch.ones(before.shape[:2], dtype=torch.bool)
        same[0, changed] = False
        assert (before - after)[same].abs().max() < 1e-6
        assert (before - after)[~same].abs().max() > 1e-2

    def test_with_an_attention_mask_rows_would_see_each_other(self, model):
        """Why packs have none: transformers looks at positions only where there is no mask."""
        batch = Collator(PAD)(packs(self.FOUND, 50))
        masked = logits(model, batch | {"attention_mask": torch.ones_like(batch["input_ids"])})
        assert (masked - logits(model, batch)).abs().max() > 1e-2

    def test_padded_rows_have_the_logits_they_have_alone(self, model):
        batch = Collator(PAD)([{"input_ids": row.input_ids, "labels": row.labels} for row in self.FOUND])
        padded = logits(model, batch)
        for index, row in enumerate(self.FOUND):
            alone = logits(model, {"input_ids": torch.tensor([row.input_ids])})[0]
            assert (padded[index, : row.length] - alone).abs().max() < 1e-5

    def test_the_loss_of_packs_is_that_of_the_rows(self, model):
        """Summed over trained tokens, shifted over the whole pack as a trainer does it."""

        def loss(batch: dict) -> torch.Tensor:
            predicted = logits(model, batch)[:, :-1].flatten(0, 1)
            return torch.nn.functional.cross_entropy(
                predicted, batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
            )

        found = [row for row in self.FOUND if row.length > 1]
        plain = Collator(PAD)([{"input_ids": row.input_ids, "labels": row.labels} for row in found])
        assert torch.isclose(loss(Collator(PAD)(packs(found, 50))), loss(plain), rtol=1e-6)
