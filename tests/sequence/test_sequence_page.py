"""`finetune lab sequence` runs, its page quotes it and the committed results of sequence_costs.py."""

from __future__ import annotations

import importlib
import statistics
import sys
from types import ModuleType
from typing import Any

import pytest
from checked_page import Page
from lab_command import run_lab
from repo import REPO

from finetune.config import load_config
from finetune.pipeline import plan_ahead
from finetune.sequence import recall, sequence_lab
from finetune.sequence.measure import HEADS, SIZE, WINDOW
from finetune.study import Study

PAGE = REPO / "docs" / "fundamentals" / "attention-and-recurrence.md"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_lab("sequence", tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    if str(REPO / "benchmarks") not in sys.path:
        sys.path.append(str(REPO / "benchmarks"))
    return importlib.import_module("sequence_pages")


def trained(part: dict[str, Any], kind: str) -> dict[str, Any]:
    return part["growth"][kind]["forward and backward"]


def test_the_short_study_tells_kinds_of_growth_apart(study: Study) -> None:
    """Coarse, for its lengths are few and its machine is busy."""
    time = {kind: trained(study.numbers, kind)["time"]["value"] for kind in study.numbers["growth"]}
    memory = {kind: trained(study.numbers, kind)["memory"]["value"] for kind in study.numbers["growth"]}
    assert min(time["dense"], time["fused"]) > 1.5 > max(time["window"], time["linear"])
    assert memory["dense"] > 1.9 and max(value for kind, value in memory.items() if kind != "dense") < 1.1
    far = {name: one["accuracy"]["32"][0] for name, one in study.numbers["recall"].items()}
    assert far["transformer"] > 0.99 and far["lstm"] < 0.3 < far["lstm, gates open"]


def test_the_committed_exponents_are_near_two_and_near_one(pages: ModuleType) -> None:
    part = pages.load()["growth"]
    for passes in ("forward", "forward and backward"):
        value = {kind: one[passes]["time"]["value"] for kind, one in part["growth"].items()}
        assert value["dense"] == pytest.approx(2, abs=0.15)
        assert value["fused"] == pytest.approx(2, abs=0.2)
        assert max(abs(value[kind] - 1) for kind in value if kind not in ("dense", "fused")) <= 0.1
    low, high = (trained(part, "dense")["time"][end] for end in ("low", "high"))
    assert low <= 2 <= high


def test_the_rates_are_the_best_of_those_tried(pages: ModuleType) -> None:
    tried = {name: one for name, one in pages.load()["rates"].items() if name in recall.RATES}
    assert set(tried) == set(recall.RATES)
    for name, gaps in tried.items():
        means = {rate: statistics.mean(gap[rate] for gap in gaps.values()) for rate in gaps["0"]}
        assert means[str(recall.RATES[name])] == max(means.values()), name


def test_every_number_of_the_page_is_computed(study: Study, pages: ModuleType) -> None:
    page, found = Page(PAGE), pages.load()
    page.says_tables(study.tables, "sequence")
    page.says_tables(pages.tables())
    says_costs(page, study.numbers["costs"])
    says_growth(page, found["growth"])
    says_overtaking(page, found["overtaking"], pages)
    says_waiting(page, found["waiting"]["seconds_a_token"])
    says_recall(page, found["recall"])
    says_plan(page)
    assert page.unchecked() == []


def says_costs(page: Page, costs: dict[str, Any]) -> None:
    attention, lstm, tokens = costs["attention"], costs["lstm"], sequence_lab.TOKENS
    page.says("(1 in Elman's network, 3 in a GRU, 4 in an LSTM)")
    page.says(f"{tokens:,} tokens, width {sequence_lab.WIDTH}, {sequence_lab.SHAPE_HEADS} heads:")
    assert tokens == 2 * sequence_lab.WIDTH and attention["flops"] == lstm["flops"]
    page.says(f"here {tokens:,} tokens. There attention takes {attention['flops']:,} operations: "
              f"{attention['parts']['projections']:,} in projections, {attention['parts']['scores']:,} in scores and "
              f"as many in values. An LSTM takes exactly as many, but its depth is {lstm['depth']:,}.")  # fmt: skip
    assert attention["parts"]["scores"] == attention["parts"]["values"]
    scores = attention["score_matrix"]
    page.says(f"is {4 * scores // 2**20} MiB in float32 and {2 * scores // 2**20} MiB in bfloat16")


def says_growth(page: Page, part: dict[str, Any]) -> None:
    sizes = part["sizes"]
    page.says(f"{HEADS} heads of {SIZE}, causal, a window of {WINDOW}, forward and backward.")
    assert len(sizes) == 5
    page.says(f"over five lengths from {sizes[0]:,} to {sizes[-1]:,}, with its 95 % interval:")
    dense, fused, window = (trained(part, kind) for kind in ("dense", "fused", "window"))
    page.says(f"At {sizes[-1]:,} tokens it is {dense['seconds'][-1] / fused['seconds'][-1]:.1f} times faster than the "
              f"dense one in 1/{dense['bytes'][-1] / fused['bytes'][-1]:.0f} of the memory, and a window is "
              f"{dense['seconds'][-1] / window['seconds'][-1]:.0f} times faster.")  # fmt: skip
    gru, lstm = (trained(part, kind)["seconds"][-1] for kind in ("gru", "lstm"))
    page.says(f"none for a GRU, which is {gru / lstm:.0f} times slower for three quarters of the operations")


def says_overtaking(page: Page, part: dict[str, Any], pages: ModuleType) -> None:
    width = part["width"]
    page.says(f"{2 * width} tokens at a width of {width}.")
    page.says(f"needs half of the pairs and should hold out to {4 * width:,}, does not either")
    crossed = part["from_tokens"]
    for kind, formula in (("dense", 2 * width), ("fused", 4 * width)):
        assert crossed[f"{kind}: mixing over projections"] < formula and crossed[f"{kind} over lstm"] < formula
    for other in ("rnn", "gru"):
        formula = {"rnn": 0, "gru": width}[other]  # 4gnd^2 against 8nd^2 + 4n^2d
        assert crossed[f"dense over {other}"] > formula
    assert pages.tokens(part, "linear over lstm") == f"beyond {part['sizes'][-1]:,}"


def says_waiting(page: Page, waiting: dict[str, dict[str, float]]) -> None:
    ratios = {kind: f"{one['ratio']:.1f}" for kind, one in waiting.items()}
    page.says(f"the ratio, {ratios['rnn']} for the Elman network, {ratios['gru']} for the GRU and {ratios['lstm']} for "
              "the LSTM, is what waiting costs on one thread")  # fmt: skip
    assert waiting["linear"]["ratio"] < 1.2 < waiting["window"]["ratio"] < waiting["dense"]["ratio"]


def says_recall(page: Page, part: dict[str, Any]) -> None:
    models = part["models"]
    sizes = [one["parameters"] for one in models.values()]
    assert max(sizes) < 1.01 * min(sizes)
    assert recall.PAIRS == 2 and len(models["lstm"]["accuracy"]["0"]) == 3
    page.says(f"the answer is its value, one of {recall.VALUES}.")
    page.says(f"{part['updates']:,} updates of {recall.ROWS} sequences, three seeds.")
    page.says(f"Chance is {1 / recall.VALUES:.3f};")
    page.says(f"its state has {recall.hidden_like(recall.count(recall.Transformer()))} numbers;")
    assert min(value for values in models["transformer"]["accuracy"].values() for value in values) > 0.99
    page.says("its path is 1.")
    plain, opened = ({gap: statistics.median(models[name]["accuracy"][gap]) for gap in ("8", "32", "64")}
                     for name in ("lstm", "lstm, gates open"))  # fmt: skip
    assert plain["32"] < 0.15 and opened["64"] < 0.15
    page.says(f"it is at {plain['8']:.2f} over a gap of 8 and at chance over 32.")
    page.says(f"it is at {opened['8']:.2f} and {opened['32']:.2f}, and fails at 64:")


def says_plan(page: Page) -> None:
    found = plan_ahead(load_config(REPO / "configs" / "qlora_r16.yaml", []), "RTX 4090").attention
    page.says(f"For Llama-2-7B at {found.tokens:,} tokens in packs it is {100 * found.now.share:.1f} % of a forward "
              f"pass, half from {found.half_from:,} tokens.")  # fmt: skip


def test_the_pictures_are_beside_the_page(study: Study) -> None:
    for plot in study.plots:
        assert f"(sequence-{plot.name}.svg)" in PAGE.read_text(encoding="utf-8")
        assert PAGE.with_name(f"sequence-{plot.name}.svg").read_text(encoding="utf-8").endswith("</svg>\n")
