"""`finetune lab actor-critic` runs, its page quotes it and the committed results of benchmarks/rl_solved.py."""

from __future__ import annotations

import pytest
from checked_page import Page
from lab_command import run_lab
from repo import REPO
from rl_results import pages
from scipy.stats import mannwhitneyu

from finetune.rl import actor_critic, environments
from finetune.rl.actor_critic_lab import ACTIONS, BATCHES, GAMMA, HORIZON, LEAVING, LIMITS, STATES, error
from finetune.study import Study

PAGE = REPO / "docs" / "fundamentals" / "actor-critic.md"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_lab("actor-critic", tmp_path_factory.mktemp("lab"))


def test_bias_is_the_bootstraps_alone(study) -> None:
    critics = study.numbers["critics"]
    assert all(one["bias"] == 0 for one in critics["step and state"].values())
    assert all(found["1.0"]["bias"] == 0 for found in critics.values())
    for name in ("the state alone", "the step alone", "nothing"):
        biases = [one["bias"] for one in critics[name].values()]
        assert biases == sorted(biases, reverse=True) and biases[0] > 0.02
    for lam, one in critics["nothing"].items():
        assert one["bias"] == pytest.approx(critics["the step alone"][lam]["bias"], abs=1e-12)


def test_the_best_lambda_goes_with_the_batch(study) -> None:
    found = study.numbers["critics"]["the step alone"]
    best = [float(min(found, key=lambda lam: error(found[lam], batch))) for batch in BATCHES]
    assert best == sorted(best) and best[0] == 0 and best[-1] == 1


def test_a_cut_taken_for_an_end_lowers_the_value(study) -> None:
    for one in study.numbers["limits"].values():
        assert one["cut"] == pytest.approx(one["cut_by_hand"], rel=1e-9)
        assert one["goes_on"] == pytest.approx(one["true"], rel=1e-9)


def test_the_training_climbs(study) -> None:
    assert max(score for _, score in study.numbers["training"]["curve"]) > 150, "chance scores about 20"


def test_every_number_of_the_page_is_computed(study) -> None:
    page = Page(PAGE)
    page.says_tables(study.tables, "actor-critic")
    page.says_tables(table for table in pages().tables() if table.name.startswith("actor-critic-"))
    says_critics(page, study.numbers["critics"])
    says_limits(page, study.numbers["limits"])
    says_algorithm(page)
    says_measured(page)
    assert page.unchecked() == []


def says_critics(page: Page, critics: dict) -> None:
    page.says(f"A drawn problem has {STATES} states, {ACTIONS} actions and {HORIZON} steps.")
    page.says(f"both over all {(STATES * ACTIONS) ** HORIZON:,} trajectories")
    true, blind = critics["step and state"], critics["the step alone"]
    variances = [f"{true[lam]['variance']:.3f}" for lam in ("0.0", "1.0")]
    page.says(
        f"the bias is 0 throughout and $\\lambda = 0$ has the least variance, {variances[0]} against {variances[1]}"
    )
    page.says(f"at $\\lambda = 0$ that is {blind['0.0']['bias']:.3f} of the gradient")
    page.says(f"has {blind['0.0']['variance']:.3f}, and the true one {variances[0]}")
    best = [float(min(blind, key=lambda lam: error(blind[lam], batch))) for batch in BATCHES]
    page.says(
        f"With {BATCHES[0]} trajectory $\\lambda = {best[0]:g}$ errs least, with {BATCHES[2]} it is "
        f"$\\lambda = {best[2]:g}$, with {BATCHES[3]:,} it is $\\lambda = {best[3]:g}$."
    )


def says_limits(page: Page, limits: dict) -> None:
    page.says(f"pays 1 a step for ever, discounted by {GAMMA}: the value is {limits['500']['true']:.0f}")
    assert 500 in LIMITS
    page.says(
        f"With CartPole's 500 steps a state worth {limits['500']['true']:.0f} is valued at {limits['500']['cut']:.1f}, "
        f"with 50 at {limits['50']['cut']:.1f}. If leaving at once paid {LEAVING:.0f}"
    )
    assert limits["50"]["cut"] < LEAVING < limits["500"]["cut"]
    page.says("the mean TD error is 0 at")
    page.says("makes it 100 at every limit")


def says_algorithm(page: Page) -> None:
    settings = actor_critic.A2CSettings()
    page.says(f"{settings.envs} environments play {settings.rollout} steps each")
    page.says(f"Advantages with $\\gamma = {settings.gamma}$, $\\lambda = {settings.lam}$")
    assert settings.value_weight == 0.5
    page.says(f"half the squared error of the values and {settings.entropy_weight} times the entropy")


def says_measured(page: Page) -> None:
    solved = environments.SOLVED
    results = pages().load("CartPole-v1")
    page.says(
        f"CartPole-v1 is solved at a mean return of {solved['CartPole-v1']:.0f}, Acrobot-v1 at "
        f"−{-solved['Acrobot-v1']:.0f}, over {environments.EPISODES} greedy episodes, looked at every 2,048 steps."
    )
    page.says("Settings were chosen on other seeds (below 20).")
    page.says(f"Stable-Baselines3 {results['environment']['stable_baselines3']} runs")
    says_cartpole(page, results["runs"])
    says_acrobot(page, pages().load("Acrobot-v1")["runs"])


def says_cartpole(page: Page, runs: dict) -> None:
    ours, first, peer = (runs[name] for name in ("actor-critic", "actor-critic, first choice", "sb3 a2c"))
    with_it, without = runs["reinforce"], runs["reinforce without a baseline"]
    page.says(f"{int(with_it['median']):,} steps with it and {int(without['median']):,} without; it cuts the")
    page.says(f"worst of 10 seeds from {max(without['solved_at']):,} to {max(with_it['solved_at']):,}.")
    assert ours["median"] < peer["median"] and len(ours["solved_at"]) == 10
    page.says(
        f"takes {ours['median']:,.0f} steps in the median and Stable-Baselines3's A2C {peer['median']:,.0f}, which 10"
    )
    page.says(f"seeds each cannot tell apart (Mann and Whitney's test, two-sided: p = {chance(ours, peer):.2f}).")
    page.says(
        f"Its worst is the worse, {max(ours['solved_at']):,} against {max(peer['solved_at']):,}. A step costs half"
    )
    assert 0.4 < ours["microseconds_a_step"] / peer["microseconds_a_step"] < 0.6
    page.says(f"among fourteen on 20 seeds, and on fresh ones took {first['median']:,.0f}.")
    page.says("The second was chosen on the same 20 seeds, after")


def says_acrobot(page: Page, runs: dict) -> None:
    ours, peer = runs["actor-critic"], runs["sb3 a2c"]
    assert all(ours["solved_at"])
    page.says(
        f"the slower learner, {ours['median']:,.0f} steps against {peer['median']:,.0f} (p = {chance(ours, peer):.2f})"
    )
    page.says(
        f"the first choice are rollouts of {actor_critic.A2CSettings().rollout} steps, as on CartPole, the second"
    )
    page.says("are of 5.")
    page.says("REINFORCE needs 1.0, on CartPole none")


def chance(ours: dict, peer: dict) -> float:
    """How often chance alone would tell the two apart as much."""
    return float(mannwhitneyu(ours["solved_at"], peer["solved_at"]).pvalue)


def test_the_pictures_are_beside_the_page(study) -> None:
    for name in (*(f"actor-critic-{plot.name}" for plot in study.plots), "actor-critic-curves"):
        assert f"({name}.svg)" in PAGE.read_text(encoding="utf-8")
        assert PAGE.with_name(f"{name}.svg").read_text(encoding="utf-8").endswith("</svg>\n")
