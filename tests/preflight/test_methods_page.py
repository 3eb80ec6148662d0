"""What docs/preflight.md says of preferences and rewards is what the trace says."""

from __future__ import annotations

import re

import pytest
import test_closed_form_methods
import test_methods_real
from repo import REPO

from finetune.config import load_config
from finetune.preflight import find_card, preflight
from finetune.preflight.sampling import DECODING, PREFILL
from finetune.preflight.tape import CACHE
from finetune.spec import describe

GIB = 2**30
PAGE = (REPO / "docs" / "preflight.md").read_text(encoding="utf-8")
SECTION = " ".join(PAGE.split("## Preferences and rewards")[1].split("\n## ")[0].split())


@pytest.mark.parametrize("method", ["dpo", "rloo", "grpo"])
def test_the_table_of_methods(method: str) -> None:
    rewards = [] if method == "dpo" else ["rewards=[{type: length, max: 9}]"]
    overrides = [f"training.method={method}", "data.packing=false", *rewards]
    spec = describe(load_config(REPO / "configs" / "qlora_r16.yaml", overrides), find_card("24GiB"))
    verdict = preflight(spec)
    found, batch = verdict.prediction, verdict.batch
    sizes = f"{found.allocated / GIB:.2f} | {found.process / GIB:.2f} | {found.phase}"
    row = f"| {method} | {batch.rows} × {batch.tokens:,} | {sizes} | {found.breakdown.get(CACHE, 0) / GIB:.2f} |"
    assert row in SECTION
    assert verdict.fits
    if method != "dpo":
        rollout, rows = spec.config.rollout, spec.config.training.effective_batch_size
        said = f"{rows} completions of {rollout.max_completion_length} tokens behind prompts of {batch.prompt_tokens:,}"
        assert said in SECTION
        assert f"{found.peaks[PREFILL] / GIB:.2f} against {found.peaks[DECODING] / GIB:.2f} GiB" in SECTION
        heads = spec.model_config.num_key_value_heads
        assert f"a key for each of its {heads} heads" in SECTION
        assert heads == spec.model_config.num_attention_heads


def test_what_the_proof_covers() -> None:
    cases = test_methods_real.CASES
    families, settings = {case[1] for case in cases}, len(cases)
    numbers = {9: "nine", 12: "twelve"}
    assert (
        f"tiny models of {numbers[len(families)]} families, under each method and {numbers[settings]} settings"
        in SECTION
    )
    assert f"within {100 * test_methods_real.TOLERANCE:g} % of the trace" in SECTION
    closed = " ".join(PAGE.split())
    draws = re.search(r"on (\d+) more of the other methods", closed)
    assert int(draws[1]) == test_closed_form_methods.DRAWS
