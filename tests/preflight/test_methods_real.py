"""The trace of dpo, rloo and grpo against reality: TRL's own trainers on the CPU, phase by phase."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from real_trainers import GENERATION, MICRO_STEP, SCORING, measured
from traced import described, peaks
from trl.trainer import utils

from finetune.preflight.preference import REFERENCE
from finetune.preflight.rollout import OLD
from finetune.preflight.sampling import DECODING, PREFILL
from finetune.preflight.step import FORWARD, LAYER_BACKWARD, LAYER_FORWARD, LOSS_BACKWARD
from finetune.preflight.trace import trace, worst_batch

torch.set_num_threads(1)  # the models are tiny: on a busy machine threads would only wait for each other

TOLERANCE = 0.01
"""What is left are numbers and flags a few bytes long, which weigh in models as small as these."""

PARTS = {
    GENERATION: [PREFILL, DECODING],
    SCORING: [OLD, REFERENCE],
    MICRO_STEP: [FORWARD, LAYER_FORWARD, LOSS_BACKWARD, LAYER_BACKWARD],
}
HALF, KEPT, DENSE = (
    "quantization.compute_dtype=bfloat16",
    "training.gradient_checkpointing=false",
    "quantization.type=none",
)
ONE_PASS, FOUR = "training.gradient_accumulation_steps=1", "training.gradient_accumulation_steps=4"
LONG = "data.max_length=32 rollout.max_completion_length=28"
CASES = [
    ("dpo", "llama3", []),
    ("dpo", "qwen2", [KEPT, "lora.dropout=0.1"]),
    ("dpo", "gemma2", [HALF, ONE_PASS]),
    ("dpo", "mixtral", [DENSE]),
    ("rloo", "llama3", [FOUR, "rollout.num_generations=4"]),
    ("rloo", "qwen3", [FOUR, LONG]),
    ("rloo", "mixtral", [ONE_PASS]),  # two completions of one prompt: nothing is padded while they are sampled
    ("rloo", "phi3", ["training.beta=0", KEPT]),
    ("grpo", "mistral", [FOUR, "rollout.top_p=0.9", "rollout.temperature=0.7"]),
    ("grpo", "gemma3_text", [FOUR, LONG, "lora.dropout=0.1"]),
    ("grpo", "llama3", [HALF, FOUR, LONG]),
    ("grpo", "smollm2", ["model.attention=eager", DENSE]),
]


NARROW = 128
"""Words of a tile of logits, of which TRL has 32,768: too many for the layers of so small a model to be the peak."""


@pytest.mark.parametrize(
    ("method", "family", "settings", "words"),
    [*((*case, NARROW) for case in CASES), *((*CASES[index], 32_768) for index in (0, 4, 8))],
    ids=lambda value: " ".join(each.split(".")[1] for each in value) or "plain" if isinstance(value, list) else None,
)
def test_meta_tensors_take_what_trls_trainers_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, family: str, settings: list[str], words: int
) -> None:
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", words)
    # Where decoding is the whole peak, a cache that outweighs the tokens' numbers.
    changes = {"head_dim": 64} if LONG in settings else {}
    spec = described(tmp_path, family, f"training.method={method}", *" ".join(settings).split(), changes=changes)
    batch = worst_batch(spec)
    if spec.config.training.online and spec.config.training.effective_batch_size == spec.config.rollout.num_generations:
        batch = replace(batch, padded=False)  # one prompt, and completions of one length
    found = peaks(trace(spec, batch))
    real = measured(spec, tmp_path)
    parts = PARTS if method != "dpo" else {SCORING: [REFERENCE], MICRO_STEP: [*PARTS[MICRO_STEP], REFERENCE]}
    predicted = {part: max(found.get(phase, 0) for phase in phases) for part, phases in parts.items()}
    assert predicted == pytest.approx({part: real[part] for part in parts}, rel=TOLERANCE)
