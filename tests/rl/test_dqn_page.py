"""`finetune lab dqn` runs, its page quotes it and the committed results of rl_ablation.py and rl_solved.py."""

from __future__ import annotations

import math

import pytest
from checked_page import Page
from lab_command import run_lab
from repo import REPO
from rl_results import pages
from scipy.stats import mannwhitneyu

from finetune.rl import ablation, baird, dqn, environments
from finetune.rl.dqn_lab import CASES, NOISE, SAME
from finetune.study import Study

PAGE = REPO / "docs" / "fundamentals" / "deep-q-learning.md"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_lab("dqn", tmp_path_factory.mktemp("lab"))


def test_double_is_never_above_the_truth(study) -> None:
    for one in study.numbers["maxima"].values():
        assert one["double"] <= one["true"] + 1e-12 < one["maximum"]
        assert one["double"] <= one["alike"] <= one["maximum"]


def test_only_the_semi_gradient_diverges(study) -> None:
    growing = {name for name, one in study.numbers["baird"].items() if one["eigenvalue"] > 0}
    assert growing == {"semi-gradient, off-policy"}
    assert all(one["value"] < 12 for name, one in study.numbers["baird"].items() if name not in growing)


def test_the_short_trainings_tell_the_variants_apart(study) -> None:
    bound = 1 / (1 - ablation.WHOLE.gamma)
    found = study.numbers["ablation"]
    for name in ("no target network", "neither"):
        assert found[name]["overestimation"][-1] > 100 * bound and max(found[name]["returns"]) < 50
    for name in ("whole", "not Double"):
        assert abs(found[name]["overestimation"][-1]) < bound and max(found[name]["returns"]) > 100


def test_every_number_of_the_page_is_computed(study) -> None:
    page = Page(PAGE)
    page.says_tables(study.tables, "dqn")
    page.says_tables(table for table in pages().tables() if table.name.startswith("dqn-"))
    says_baird(page, study.numbers)
    says_maxima(page, study.numbers["maxima"])
    says_ablation(page)
    says_peers(page)
    assert page.unchecked() == []


def says_baird(page: Page, numbers: dict) -> None:
    states, weights = baird.features().shape
    assert (states, weights) == (7, 8)
    page.says("all rewards 0, and a linear value")
    page.says(f"discount {baird.GAMMA}, step {baird.STEP}. The eighth weight starts from {baird.start()[7]:.0f}:")
    diverging = numbers["baird"]["semi-gradient, off-policy"]
    page.says(f"takes it to {diverging['weight']['1000']:.0f} in 1,000 sweeps")
    page.says(f"an eigenvalue of {diverging['eigenvalue']:+.3f}, so the error grows by a factor of "
              f"{1 + baird.STEP * diverging['eigenvalue']:.4f} a sweep")  # fmt: skip
    held = numbers["held"]
    assert held["10"] > 1 and held["50"] > 1 > held["100"]
    page.says("Held for 10 or 50 sweeps it still diverges, held for 100 it does not.")
    assert baird.growth(20_000) == pytest.approx(baird.GAMMA, abs=1e-6)
    page.says(f"which contracts by the discount, {baird.GAMMA}.")


def says_maxima(page: Page, maxima: dict) -> None:
    assert maxima["2 actions, alike"]["maximum"] == pytest.approx(math.pi**-0.5, abs=1e-9)
    page.says("Of two estimates of 0 with noise")
    gamma = dqn.DQNSettings().gamma
    page.says(f"times as much: {gamma / (1 - gamma):.0f} times.")
    page.says(f"by quadrature, with noise {NOISE:.0f}:")
    ten, better = maxima["10 actions, alike"], maxima["4 actions, one better by 1"]
    assert len(CASES["10 actions, alike"]) == 10 and SAME == 0.5
    page.says(f"With 10 actions that are worth the same the maximum is {ten['maximum']:.3f} too high, and independent "
              f"estimates {ten['double']:.0f}.")  # fmt: skip
    page.says(f"Where one action is better by 1, Double is too low, by {better['true'] - better['double']:.3f}")
    page.says(f"With noise half alike it keeps half of the error: {ten['alike']:.3f} of {ten['maximum']:.3f}.")


def says_ablation(page: Page) -> None:
    results = pages().load("ablation")
    settings = results["settings"]
    assert len(results["seeds"]) == 5
    page.says(f"CartPole, two layers of {settings['hidden']}, {settings['steps']:,} steps, everything else alike; five")
    page.says(f"learns from the newest {settings['train_every']} transitions alone")
    page.says(f"Alarms, taken every {settings['evaluate_every']:,} steps:")
    page.says("It should be 1, the last reward;")
    says_variants(page, results["variants"])
    says_the_run_that_collapsed(page, results["variants"]["whole"][results["seeds"].index(103)])


def says_variants(page: Page, variants: dict) -> None:
    rows = {name: pages().ablation_row(runs) for name, runs in variants.items()}
    for name in ("no target network", "neither"):
        assert all(round(value) in (9, 10) for run in variants[name] for value in run["returns"])
        assert float(rows[name][3]) > 1e7
    page.says(f"values pass every bound: {rows['no target network'][3]} in states worth 1. All 5 runs are at a")
    page.says(f"return of {rows['no target network'][1]} from the first evaluation to the last")
    solved, _, last, doomed, _, share = rows["no replay"]
    page.says(f"{solved} solved it, the median ends at {last}.")
    page.says(f"the least share is {share})")
    assert float(doomed) < 100
    whole = variants["whole"]
    assert rows["whole"][0] == "5 of 5"
    page.says(f"all 5 solved it, and {sum(run['returns'][-1] == 500 for run in whole)} of {len(whole)} stand at 500")
    assert all(run["terminal_share"][-1] < 0.02 for run in whole)
    both = [float(rows[name][4]) for name in ("whole", "not Double")]
    assert abs(both[0] - both[1]) < 5 and rows["not Double"][0] == "5 of 5"


def says_the_run_that_collapsed(page: Page, run: dict) -> None:
    at = run["steps"].index(17_408.0)
    doomed = [round(value) for value in run["doomed_value"]]
    assert doomed[at] > 100 > max(doomed[:at])
    returns = [f"{value:.0f}" for value in run["returns"]]
    page.says(f"seed 103 is at a return of {returns[at]} after {run['steps'][at]:,.0f} steps, and values")
    page.says(f"doomed states at {doomed[at]}: above the 100 that no return can pass.")
    page.says(f"At the next evaluation its return is {returns[at + 1]}. The two before had {doomed[at - 1]} and")
    page.says(f"{doomed[at - 2]}, and were sound.")
    assert min(run["returns"][at - 2 : at]) >= 475


def says_peers(page: Page) -> None:
    solved, settings = environments.SOLVED, dqn.DQNSettings()
    page.says(f"CartPole-v1 (solved at {solved['CartPole-v1']:.0f}) and Acrobot-v1 (solved at "
              f"−{-solved['Acrobot-v1']:.0f}), mean of {environments.EPISODES} greedy episodes, looked at every 2,048 "
              "steps. Settings were chosen on other seeds (below 20);")  # fmt: skip
    page.says("| learning | one gradient step every 4 steps | rounds: "
              f"{settings.gradient_steps} gradient steps every {settings.train_every} steps |")  # fmt: skip
    page.says(f"| environments | 1 | {settings.envs} side by side |")
    assert settings.target_every == settings.gradient_steps
    page.says("| target network | renewed every 10,000 steps | renewed after each round |")
    page.says(f"errors cut at 1 | Adam, Huber loss, gradients cut at norm {settings.max_grad_norm:.0f} |")

    says_results(page)


def says_results(page: Page) -> None:
    cart, acrobot = (pages().load(name)["runs"] for name in ("CartPole-v1", "Acrobot-v1"))
    assert cart["dqn"]["median"] == cart["sb3 dqn"]["median"]
    page.says(f"On CartPole both take {cart['dqn']['median']:,.0f} steps in the median, and all "
              f"{sum(map(bool, cart['dqn']['solved_at']))} seeds solve it;")  # fmt: skip
    here, there = (cart[name]["microseconds_a_step"] for name in ("dqn", "sb3 dqn"))
    page.says(f"a step costs {here:,.0f} µs here and {there:,.0f} there.")
    medians = [f"{acrobot[name]['median']:,.0f}" for name in ("dqn", "sb3 dqn")]
    page.says(
        f"On Acrobot it is {medians[0]} steps against {medians[1]}, which {len(acrobot['dqn']['solved_at'])} seeds"
    )
    p = mannwhitneyu(acrobot["dqn"]["solved_at"], acrobot["sb3 dqn"]["solved_at"]).pvalue
    page.says(f"two-sided: p = {p:.2f}), at a seventh")
    assert round(acrobot["sb3 dqn"]["microseconds_a_step"] / acrobot["dqn"]["microseconds_a_step"]) == 7


def test_the_pictures_are_beside_the_page(study) -> None:
    for name in (*(f"dqn-{plot.name}" for plot in study.plots), "dqn-curves", "dqn-ablation"):
        assert f"({name}.svg)" in PAGE.read_text(encoding="utf-8")
        assert PAGE.with_name(f"{name}.svg").read_text(encoding="utf-8").endswith("</svg>\n")
