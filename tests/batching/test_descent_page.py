"""`finetune lab descent` shows what it is for, and docs/fundamentals/gradient-descent.md quotes it rightly."""

from __future__ import annotations

import json

import pytest
from checked_page import Page
from lab_command import run_lab
from repo import REPO

from finetune.batching import descent_measures as measures
from finetune.batching import epochs_to_target
from finetune.study import Study

FULL, SINGLE, DECAYING = "gradient descent", "SGD, b = 1", "SGD, b = 1, decaying"
CONSTANT = [SINGLE, *(f"mini-batch, b = {batch}" for batch in (8, 32, 128))]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_lab("descent", tmp_path_factory.mktemp("lab"))


def epochs(study: Study, problem: str, target: float) -> dict[str, float | None]:
    column = measures.TARGETS.index(target)
    return {method: row["epochs"][column] for method, row in study.numbers["passes"][problem].items()}


def best_stochastic(study: Study, problem: str, target: float) -> float:
    return min(value for method, value in epochs(study, problem, target).items() if value and method != FULL)


# ---- what the lab shows


def test_variance_is_theory_within_five_percent(study):
    rows = [row for at in ("start", "optimum") for row in study.numbers["variance"][at]]
    assert [(row["batch"], row["replacement"]) for row in rows[:8:2]] == [(b, True) for b in (1, 8, 64, 512)]
    assert len(rows) == 16
    assert all(abs(row["ratio"] - 1) < 0.05 for row in rows)


def test_a_decaying_step_has_the_rate_and_the_constant_of_theory(study):
    for row in study.numbers["decay"].values():
        assert abs(row["exponent"] + 1) < row["half_width"] < 0.06
        assert row["of_limit"] == pytest.approx(1, abs=0.06)


def test_the_floor_is_theory_and_goes_with_the_step_and_one_over_the_batch(study):
    floor = study.numbers["floor"]
    assert len(floor) == 9
    for row in floor:
        assert row["measured"] == pytest.approx(row["exact"], rel=0.03)
        assert row["shuffled"] < row["measured"]
    small = {(row["step"], row["batch"]): row["measured"] for row in floor if row["batch"] > 1}
    assert small[0.02, 4] / small[0.01, 4] == pytest.approx(2, rel=0.05)
    assert small[0.04, 16] / small[0.02, 16] == pytest.approx(2, rel=0.07)
    assert small[0.01, 4] / small[0.01, 16] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("problem", ["logistic", "ridge"])
def test_single_examples_win_early_and_full_batch_wins_late(study, problem):
    for target, fold in ((1e-1, 20), (1e-2, 5)):
        assert epochs(study, problem, target)[SINGLE] * fold < epochs(study, problem, target)[FULL]
    late = [value for method, value in epochs(study, problem, 1e-6).items() if value and method != FULL]
    assert all(value > 2 * epochs(study, problem, 1e-6)[FULL] for value in late)


def test_no_method_wants_a_smaller_step_than_it_was_given(study):
    smallest = {method.name: method.grid[0] for method in epochs_to_target.METHODS}
    for runs in study.numbers["passes"].values():
        for method, row in runs.items():
            assert all(step is None or step > 1.01 * smallest[method] for step in row["steps"])


def test_per_second_single_examples_lose(study):
    for problem, each in study.numbers["epoch_seconds_here_and_now"].items():
        to_a_hundredth = {method: each[method] * epochs(study, problem, 1e-2)[method] for method in (FULL, SINGLE)}
        assert to_a_hundredth[SINGLE] > 10 * to_a_hundredth[FULL]


def test_everything_is_json_and_has_its_picture(study):
    written = json.loads(json.dumps(study.to_json()))
    assert written["name"] == "descent" and written["settings"]["seed"] == measures.SEED
    assert [plot.name for plot in study.plots] == ["gaps", "variance", "noise"]


# ---- the page


def test_every_number_of_the_page_is_the_labs(study):
    page = Page(REPO / "docs" / "fundamentals" / "gradient-descent.md")
    named = [table for table in study.tables if table.name]
    assert [table.title for table in study.tables if table not in named] == [
        "Milliseconds to the same gaps, of one run, measured here and now"
    ]
    page.says_tables(named, "descent")
    for check in (says_variance, says_rate, says_floor, says_decay, says_epochs, says_settings):
        check(page, study)
    assert page.unchecked() == []


def says_variance(page: Page, study: Study) -> None:
    ratios = [row["ratio"] for rows in study.numbers["variance"].values() for row in rows]
    page.says(f"Measured over theory lies between {min(ratios):.3f} and {max(ratios):.3f}.")
    theory = {(row["batch"], row["replacement"]): row["theory"] for row in study.numbers["variance"]["start"]}
    saved = {batch: 100 * (1 - theory[batch, False] / theory[batch, True]) for batch in (64, 512)}
    page.says(
        f"At 64 of 569 examples drawing without replacement saves {saved[64]:.1f} % of the variance, "
        f"at 512 it saves {saved[512]:.1f} %."
    )
    alone = [row["ratio"] for rows in study.numbers["variance"].values() for row in rows[1:2]]
    assert alone == pytest.approx([1, 1], abs=1e-12)
    page.says("the ratio is 1 by construction")
    shrinks = {
        name: row["variance_at_start"] / row["variance_at_optimum"] for name, row in study.numbers["problems"].items()
    }
    page.says(f"it is {shrinks['logistic']:.1f} times smaller than at the start for logistic regression, and")
    page.says(f"{shrinks['ridge']:.1f} times for ridge")


def says_rate(page: Page, study: Study) -> None:
    rates, problems = study.numbers["contraction"], study.numbers["problems"]
    assert all(row["gap_worst"] <= row["bound"] for row in rates.values())
    assert rates["ridge"]["distance_worst"] == pytest.approx(rates["ridge"]["bound"], abs=1e-10)
    assert rates["ridge"]["gap_worst"] == pytest.approx(rates["ridge"]["bound"] ** 2, abs=1e-6)
    page.says(f"= {rates['ridge']['bound'] ** 2:.4f} in gap")
    page.says(f"is {problems['logistic']['L'] / problems['logistic']['L_at_optimum']:.1f} times less than $L$")
    best = {name: runs[FULL] for name, runs in study.numbers["passes"].items()}
    logistic, ridge = best["logistic"], best["ridge"]
    page.says(f"a constant step of ${logistic['steps'][-1]:g}/L$ takes {logistic['epochs'][-1]:g} epochs to a")
    page.says(f"where $1/L$ takes {rates['logistic']['epochs'][-1]}.")
    page.says(
        f"the best step is ${ridge['steps'][-1]:g}/L$, for {ridge['epochs'][-1]:g} epochs instead of "
        f"{rates['ridge']['epochs'][-1]}; above $2/L$ it diverges"
    )


def says_floor(page: Page, study: Study) -> None:
    floor = study.numbers["floor"]
    ratios = [row["measured"] / row["exact"] for row in floor]
    page.says(f"Measured over exact theory lies between {min(ratios):.3f} and {max(ratios):.3f}.")
    large, small = floor[0], floor[-1]
    assert (large["step"], large["batch"], small["step"], small["batch"]) == (0.04, 1, 0.01, 16)
    short = [100 * (1 - row["first_order"] / row["measured"]) for row in (small, large)]
    page.says(f"is {short[0]:.0f} % short at the smallest step with $b = 16$, and {short[1]:.0f} % at the largest")
    page.says(f"and $b = 16$ is {small['measured'] / small['shuffled']:.1f} times lower")


def says_decay(page: Page, study: Study) -> None:
    page.says(f"the mean of {measures.DECAY_SEEDS} seeds over the last tenfold of {measures.DECAY_UPDATES:,} updates")
    assert all(abs(row["of_limit"] - 1) < 0.04 for row in study.numbers["decay"].values())
    page.says("agree with $-1$, and the constants with theory's within 4 %")


def says_epochs(page: Page, study: Study) -> None:
    early = {(p, t): epochs(study, p, t) for p in ("logistic", "ridge") for t in measures.TARGETS}
    fold = {key: row[FULL] / row[SINGLE] for key, row in early.items() if row[SINGLE]}
    page.says(
        f"single examples take {fold['logistic', 1e-1]:.0f} times fewer epochs than full batches on logistic "
        f"regression and {fold['ridge', 1e-1]:.0f} times fewer on ridge; to a hundredth, "
        f"{fold['logistic', 1e-2]:.1f} and {fold['ridge', 1e-2]:.1f} times."
    )
    assert all(early[problem, 1e-2][SINGLE] < 1 for problem in ("logistic", "ridge"))  # before the first full step
    between = [early[problem, 1e-4] for problem in ("logistic", "ridge")]
    (a, b), (c, d) = ((row[DECAYING], row[FULL]) for row in between)
    page.says(f"the decaying step needs {a:g} epochs against {b:g}, and {c:g} against {d:g}.")
    assert all(row[method] > 0.95 * row[FULL] for row in between for method in CONSTANT)
    late = early["logistic", 1e-6]
    best = best_stochastic(study, "logistic", 1e-6)
    page.says(f"it takes {late[FULL]:g} epochs where the best SGD takes {best:g}; on ridge it is alone to arrive")
    assert [method for method, value in early["ridge", 1e-6].items() if value] == [FULL]
    page.says(f"within {epochs_to_target.EPOCHS}.")
    for problem in ("logistic", "ridge"):
        row = early[problem, 1e-2]
        assert row["mini-batch, b = 8"] == pytest.approx(row[SINGLE], rel=0.1)
        assert row["mini-batch, b = 128"] == pytest.approx(3 * row[SINGLE], rel=0.15)
    page.says("**Mini-batches** of 8 cost about the same epochs")
    page.says("Batches of 128 cost about three times as many")


def says_settings(page: Page, study: Study) -> None:
    assert study.settings["penalty"] == 0.01
    page.says("$\\lambda = 0.01$")
    page.says(f"gaps are means of {epochs_to_target.SEEDS} seeds")
