"""The loss from hidden states: the same as from whole logits, to the last digits of float64, with its gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import GraniteConfig, LlamaConfig, LlamaForCausalLM

from finetune.spec import linear_loss
from finetune.spec.linear_loss import LinearCrossEntropy, plain_logits, tile_tokens
from finetune.spec.loss import IGNORED, next_token_loss

WORDS = 300


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tokens", [7, 64, 100], ids=["part of a tile", "one tile", "tiles and a part"])
def test_value_and_gradient(tokens: int, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_loss, "TILE_BYTES", 64 * 4 * WORDS)
    assert tile_tokens(WORDS) == 64
    hidden, weight = drawn(tokens, 16).requires_grad_(), drawn(WORDS, 16, seed=1)
    bias = drawn(WORDS, seed=2) if biased else None
    labels = torch.randint(WORDS, (tokens,), generator=torch.Generator().manual_seed(3))
    total, hits, entropies = LinearCrossEntropy.apply(
        hidden.float(), weight.float(), bias if bias is None else bias.float(), labels
    )
    (3 * total).backward()
    found, hidden.grad = hidden.grad, None
    logits = functional.linear(hidden, weight, bias)
    wanted = functional.cross_entropy(logits, labels, reduction="sum")
    (3 * wanted).backward()
    assert float(total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    assert torch.allclose(found, hidden.grad, rtol=1e-4, atol=1e-5)
    assert int(hits) == int((logits.argmax(-1) == labels).sum())
    entropy = torch.distributions.Categorical(logits=logits).entropy().sum()
    assert float(entropies) == pytest.approx(float(entropy.detach()), rel=1e-5)


def test_nothing_is_kept_where_no_gradient_is_asked_for() -> None:
    hidden, weight, labels = drawn(4, 8, dtype=torch.float32), drawn(WORDS, 8, dtype=torch.float32), torch.arange(4)
    assert not LinearCrossEntropy.apply(hidden, weight, None, labels)[0].requires_grad


def test_a_model_s_loss_is_that_of_its_whole_logits() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.randint(WORDS, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :9], labels[1] = IGNORED, IGNORED
    loss, share, _ = linear_loss.linear_loss(model, {"input_ids": ids, "labels": labels}, 5)
    logits = model(input_ids=ids, use_cache=False).logits
    assert float(loss.detach()) == pytest.approx(float(next_token_loss(logits, labels, 5).detach()), rel=1e-6)
    hit = (logits[:, :-1].argmax(-1) == labels[:, 1:])[labels[:, 1:] != IGNORED]
    assert float(share) == pytest.approx(float(hit.float().mean()))
    mean, *_ = linear_loss.linear_loss(model, {"input_ids": ids, "labels": labels})
    assert float(mean.detach()) == pytest.approx(float(next_token_loss(logits, labels).detach()), rel=1e-6)


def test_a_batch_without_a_trained_token_is_a_zero_that_has_a_gradient() -> None:
    hidden = torch.zeros((0, 8), requires_grad=True)
    total, *_ = LinearCrossEntropy.apply(hidden, torch.ones((WORDS, 8)), None, torch.zeros(0, dtype=torch.long))
    total.backward()
    assert float(total.detach()) == 0 and hidden.grad.shape == (0, 8)


def test_models_that_change_their_logits_are_left_to_trl() -> None:
    assert plain_logits(LlamaConfig())
    assert not plain_logits(GraniteConfig(logits_scaling=8.0))
    assert plain_logits(GraniteConfig(logits_scaling=1.0))
