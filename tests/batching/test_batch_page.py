"""`finetune lab batch` runs, and docs/fundamentals/batch-size.md quotes it rightly."""

from __future__ import annotations

import math

import pytest
from checked_page import Page
from repo import REPO

from finetune.batching import linear_rule as rules
from finetune.batching import time_to_target as target
from finetune.batching.batch_lab import STEEP, TIMID
from finetune.batching.digits import HIDDEN, digits
from finetune.batching.scaling import FEW_UPDATES
from finetune.study import Study


@pytest.fixture(scope="module")
def study(batch_study) -> Study:
    return batch_study


def test_findings_are_the_numbers(study) -> None:
    said = " ".join(study.findings)
    time = study.numbers["time"]
    assert f"The knee is at {time['knee']:.0f} examples" in said
    for name, k, rule in (
        ("sgd", "8", "linear"),
        ("sgd", "256", "best"),
        ("adam", "8", "linear"),
        ("adam", "256", "sqrt"),
    ):
        assert str(gap(study, name, k, rule)) in said


def gap(study: Study, name: str, k: str, rule: str) -> rules.Gap:
    return rules.Gap(**study.numbers[name]["gaps"][k][rule])


def test_a_gap_is_shown_to_the_first_digit_of_its_spread() -> None:
    shown = {(0.87234, 0.0627): "0.87 ± 0.06", (7.72, 2.89): "8 ± 3", (-0.0004, 0.0012): "0.000 ± 0.001"}
    assert {(mean, spread): str(rules.Gap(mean, spread)) for mean, spread in shown} == shown


def test_every_number_of_the_page_is_the_labs(study) -> None:
    page = Page(REPO / "docs" / "fundamentals" / "batch-size.md")
    page.says_tables(study.tables, "batch")
    for check in (says_setting, says_sgd, says_adam, says_few, says_warmup, says_time, says_noise):
        check(page, study)
    assert page.unchecked() == []


def test_the_pictures_beside_the_page_are_the_labs(study) -> None:
    page = (REPO / "docs" / "fundamentals" / "batch-size.md").read_text(encoding="utf-8")
    for plot in study.plots:
        assert f"(batch-{plot.name}.svg)" in page
        assert (REPO / "docs" / "fundamentals" / f"batch-{plot.name}.svg").is_file()


def says_setting(page: Page, study: Study) -> None:
    numbers, (sgd, adam, network) = study.numbers, (rules.sgd(), rules.adam(), rules.steep(1.0))
    page.says(f"{len(digits()[1]):,} images of 8 × 8 pixels")
    assert HIDDEN == (64,) * 3
    page.says("three hidden layers of 64")
    assert sgd.batch == adam.batch == 1 and network.batch == 4
    assert numbers["sgd"]["best_rate"] == 2 * sgd.rate and numbers["adam"]["best_rate"] == adam.rate
    page.says(f"a step of {sgd.rate} for SGD (half the best)")
    page.says(f"one example and {adam.rate} for Adam (the best of the powers of two tried)")
    page.says(f"four examples and {network.rate} for the network")
    page.says(f"the same {rules.EXAMPLES:,} examples")
    page.says(f"mean over {rules.SEEDS} seeds")
    page.says(f"{numbers['sgd']['reference']:.3f} with SGD and {numbers['adam']['reference']:.3f} with Adam")


def largest(study: Study, name: str, rule: str) -> float:
    """The largest gap up to k = 8, whichever its sign."""
    return max(abs(gap(study, name, k, rule).mean) for k in ("2", "4", "8"))


def says_sgd(page: Page, study: Study) -> None:
    gaps, sgd = study.numbers["sgd"]["gaps"], study.numbers["sgd"]
    behind = gaps["8"]["none"]["mean"]
    page.says(
        f"the rule leaves a gap of {largest(study, 'sgd', 'linear'):.3f} at most, "
        f"while the old step is behind by {behind:.2f}."
    )
    page.says(f"At the start the curvature allows steps of {sgd['step_limit']:.1f}")
    assert 16 * sgd["rate"] > 2.9 * sgd["step_limit"] and abs(gaps["16"]["linear"]["mean"]) < 0.005
    page.says(f"the step at $k = 64$ is {64 * sgd['rate']:.1f}, and the gap {gaps['64']['linear']['mean']:.2f}")
    page.says(f"at $k = 256$ it is {256 * sgd['rate']:.0f}, and the gap {gaps['256']['linear']['mean']:.2f}")
    assert len(rules.GRID) == 7
    page.says(f"the rule's and six halvings of it is still behind by {gaps['256']['best']['mean']:.2f}")


def says_adam(page: Page, study: Study) -> None:
    gaps = study.numbers["adam"]["gaps"]
    assert f"{largest(study, 'adam', 'whole'):.3f}" == f"{largest(study, 'adam', 'sqrt'):.3f}"
    page.says(f"the square root leaves {largest(study, 'adam', 'sqrt'):.3f} at most")
    overshoots = {k: gaps[k]["linear"]["mean"] for k in ("8", "32")}
    page.says(f"The linear rule overshoots: {overshoots['8']:.3f} at $k = 8$, {overshoots['32']:.2f} at $k = 32$.")
    page.says(f"fails in its turn: {gaps['256']['sqrt']['mean']:.2f} at $k = 256$, no better than leaving the step")
    assert gaps["256"]["sqrt"]["mean"] > 0.95 * gaps["256"]["none"]["mean"]
    assert 0.4 < gaps["128"]["whole"]["mean"] / gaps["128"]["sqrt"]["mean"] < 0.6
    assert rules.whole_rule(10).keywords["betas"][0] == pytest.approx(0) == rules.whole_rule(20).keywords["betas"][0]
    page.says("and is 0.")
    page.says(f"(Adam's $\\epsilon$ is {rules.EPSILON:.4f} here")


def says_few(page: Page, study: Study) -> None:
    sgd, adam = study.numbers["sgd"]["few"], study.numbers["adam"]["few"]
    page.says(f"The same batch and the same step, {rules.FEW} times the reference's")
    assert f"{sgd['128']['mean']:.2f}" == f"{adam['128']['mean']:.2f}"
    page.says(
        f"With 128 updates the gap is {sgd['128']['mean']:.2f}; with 32 it is {sgd['32']['mean']:.2f} and "
        f"{adam['32']['mean']:.2f}; with 8 SGD ends above the loss it began with."
    )
    assert sgd["8"]["mean"] > math.log(10)
    page.says(f"`finetune plan` warns below {FEW_UPDATES}.")
    page.says(f"and warns below {FEW_UPDATES}: prefer")


def says_warmup(page: Page, study: Study) -> None:
    steep, he = study.numbers["warmup"]["steep"], study.numbers["warmup"]["he"]
    page.says(f"is {he['curvature']:.0f} at the first and {steep['curvature']:.0f} at the second")
    page.says(f"with {STEEP:.0f} in place of $\\sqrt 2$, about twice that")
    assert rules.WARMUP == 0.1
    ends = steep["gaps"]["16"]
    page.says(
        f"the gap is {ends['without']['mean']:.1f} without warm-up and {ends['with']['mean']:.2f} with it, "
        f"{ends['without']['mean'] / ends['with']['mean']:.0f} times less"
    )


def says_time(page: Page, study: Study) -> None:
    time = study.numbers["time"]
    rates = {int(batch): found["rate"] for batch, found in time["runs"].items()}
    page.says(f"updates to a loss of {target.TARGET} with a constant step")
    page.says(f"the best of {len(target.RATES)} at each batch, mean over {target.SEEDS} seeds")
    page.says(f"$u_{{min}}$ = {time['fewest_updates']:.0f} updates")
    page.says(f"$e_{{min}}$ = {time['fewest_examples']:,.0f} examples, its **knee at {time['knee']:.0f}**")
    page.says(f"is within {time['worst_fit']:.0%} of every point".replace("%", " %"))
    assert rates[4] / rates[1] == pytest.approx(4)
    assert max(rate / rates[64] for batch, rate in rates.items() if batch > 64) <= 2.001
    page.says("Between 1 and 4 examples the best step grows fourfold")
    page.says("Between 64 and 1,024 it no more than doubles.")


def says_noise(page: Page, study: Study) -> None:
    time = study.numbers["time"]
    along = {int(batch): found["noise_scale"] for batch, found in time["runs"].items()}
    below = [noise for batch, noise in along.items() if batch <= time["near"]]
    page.says(f"It begins at {time['noise_at_start']:.0f}")
    page.says(
        f"the run of batch {time['near']} it is {time['noise_scale']:.0f} on average, "
        f"{time['noise_over_knee']:.1f} times the knee."
    )
    page.says(f"Below that batch it is {min(below):.0f} to {max(below):.0f}")
    page.says(f"up to {max(along.values()):.0f}.")
    page.says(
        f"with a step {TIMID} times smaller, batch {time['near']} takes {time['timid_updates']:.0f} updates and sees a "
        f"noise scale of {time['timid_noise_scale']:.0f}, {time['timid_over_knee']:.1f} times the knee."
    )
    page.says("Fieller's interval (1954)")
    page.says("Up to 8 times the batch they held here")
