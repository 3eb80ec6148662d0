"""Feed-forward parts in chunks: the same outputs and gradients, less held at once, refused where tokens mix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import write_family

from finetune.config import RunConfig
from finetune.errors import ConfigError
from finetune.model import build_model
from finetune.spec import describe
from finetune.spec.feed_forward import in_chunks


def config(folder: Path, chunk: int | None, **training: object) -> RunConfig:
    return RunConfig.model_validate({
        "model": {"name_or_path": str(folder), "weights": "random", "dtype": "float32"},
        "quantization": {"compute_dtype": "float32"},
        "lora": {"target_modules": "all-linear", "init": "gaussian"},
        "data": {"train": "x", "max_length": 64},
        "training": {"feed_forward_chunk": chunk, "optimizer": "adamw_torch", **training},
        "hardware": {"device": "cpu"}, "output_dir": "x",
    })  # fmt: skip


@pytest.mark.parametrize("checkpointed", [True, False])
def test_outputs_and_gradients_are_those_of_the_whole(checkpointed: bool, tmp_path: Path) -> None:
    folder, found = write_family("llama3", tmp_path), []
    for chunk in (None, 10):
        model = build_model(describe(config(folder, chunk)))
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        ids = torch.arange(32)[None] % 60
        logits = model.train()(input_ids=ids, use_cache=False).logits
        logits.square().mean().backward()
        found.append((logits, [p.grad for p in model.parameters() if p.requires_grad]))
    (whole, wanted), (chunked, gradients) = found
    assert torch.allclose(chunked, whole, rtol=1e-5, atol=1e-6)
    assert len(wanted) and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(gradients, wanted, strict=True)
    )


def test_no_more_tokens_at_once_than_asked() -> None:
    seen = []

    def part(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape[1])
        return hidden * hidden

    hidden = torch.ones((2, 10, 4), requires_grad=True)
    in_chunks(part, 4, hidden).sum().backward()
    assert seen == [4, 4, 2, *seen[3:]] and sorted(seen[3:]) == [2, 4, 4], "once forward, once more backward"
    assert torch.equal(hidden.grad, torch.full_like(hidden, 2.0))
    seen.clear()
    with torch.no_grad():
        in_chunks(part, 4, hidden)
    in_chunks(part, 10, hidden)
    assert seen == [4, 4, 2, 10]


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_mixtures_of_experts_are_refused(family: str, tmp_path: Path) -> None:
    spec = config(write_family(family, tmp_path), 8)
    attention = spec.lora.model_copy(update={"target_modules": ["q_proj"]})
    with pytest.raises(
        ConfigError, match=r"training.feed_forward_chunk=8: layers of .* have no feed-forward part"
    ) as caught:
        describe(spec.model_copy(update={"lora": attention}))
    assert caught.value.hint == "set training.feed_forward_chunk=null"
