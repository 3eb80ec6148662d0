"""Associative recall: the task is what it says, and models of equal size part over the gap."""

from __future__ import annotations

import torch

from finetune.sequence import recall
from finetune.sequence.recall import KEYS, NOISE, PAIRS, VALUES, count, models, sample


def test_the_answer_stands_behind_its_key() -> None:
    tokens_BN, values_B = sample(200, gap=11, generator=torch.Generator().manual_seed(0))
    assert tokens_BN.shape == (200, 2 * PAIRS + 11 + 1)
    for row, value in zip(tokens_BN.tolist(), values_B.tolist(), strict=True):
        keys, values = row[0 : 2 * PAIRS : 2], row[1 : 2 * PAIRS : 2]
        assert len(set(keys)) == PAIRS and all(key < KEYS for key in keys)
        assert values[keys.index(row[-1])] == KEYS + value
        assert all(KEYS + VALUES <= token < KEYS + VALUES + NOISE for token in row[2 * PAIRS : -1])
    assert torch.bincount(values_B, minlength=VALUES).min() > 5, "all values are asked for"


def test_models_have_about_as_many_parameters() -> None:
    sizes = {name: count(make()) for name, make in models(gap=8).items()}
    assert max(sizes.values()) < 1.02 * min(sizes.values())
    assert count(models(8)["lstm"]()) == recall.count_recurrent(recall.hidden_like(sizes["transformer"]))


def test_no_position_knows_what_comes_after() -> None:
    """The transformer is causal: its state at the key cannot see the question."""
    model = recall.Transformer().eval()
    seen = []
    model.layers.register_forward_hook(lambda *args: seen.append(args[2]))
    tokens_BN, _ = sample(4, 5, torch.Generator().manual_seed(0))
    other_BN = tokens_BN.clone()
    other_BN[:, -1] = (tokens_BN[:, -1] + 1) % KEYS
    for one in (tokens_BN, other_BN):
        model(one)
    torch.testing.assert_close(seen[0][:, :-1], seen[1][:, :-1])
    assert not torch.allclose(seen[0][:, -1], seen[1][:, -1])


def test_the_same_seed_gives_the_same_model() -> None:
    assert recall.recall("lstm", 0, 30) == recall.recall("lstm", 0, 30)
    assert recall.recall("lstm", 0, 30, seed=1) != recall.recall("lstm", 0, 30)
