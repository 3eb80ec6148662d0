"""`finetune lab actor-critic`: what a learned critic costs and buys, and why a time limit is no end.

Bias and variance are computed over every trajectory; the critics are what regression without end would learn. Only the
training at the end is sampled.

Shapes: N trajectories, T steps, S states.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from finetune.rl import actor_critic, tabular
from finetune.rl.actor_critic_plots import plots
from finetune.rl.policy_gradient import gae
from finetune.study import Study, Table

QUESTION = "What does a learned critic do to the policy gradient?"
STATES, ACTIONS, HORIZON, SEED = 3, 2, 4, 0
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
SHOWN = (0.0, 0.5, 0.9, 1.0)
BATCHES = (1, 16, 256, 4096)
GAMMA = 0.99
LIMITS = (20, 50, 200, 500, 2000)
LEAVING = 50.0
"""What is paid for ending an episode at once, in the example of time limits."""
TRAINED = actor_critic.A2CSettings(steps=24_000, evaluate_every=2_000)
SETTINGS = {
    "problem": f"{STATES} states, {ACTIONS} actions, {HORIZON} steps, drawn; every trajectory is enumerated",
    "critics": "least squares of the reward to go on what each sees",
    "training": f"{TRAINED.env_id}, at most {TRAINED.steps:,} steps",
}


@cache
def run() -> Study:
    """Runs everything: seconds on one core."""
    mdp = tabular.random_mdp(STATES, ACTIONS, HORIZON, SEED)
    generator = torch.Generator().manual_seed(SEED)
    logits_SA = torch.randn(STATES, ACTIONS, generator=generator, dtype=torch.float64)
    _, outcome = actor_critic.train(TRAINED, SEED)
    numbers = {
        "critics": study_critics(mdp, logits_SA),
        "limits": {str(limit): study_limit(limit) for limit in LIMITS},
        "training": {"curve": outcome.curve, "solved_at": outcome.solved_at},
    }
    tables = [critic_table(numbers), batch_table(numbers), limit_table(numbers), training_table(numbers)]
    return Study("actor-critic", QUESTION, SETTINGS, numbers, tables, findings(numbers), plots(numbers))


def study_critics(mdp: tabular.Mdp, logits_SA: torch.Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """For each critic and lambda: length of the bias in parts of the gradient's, variance in parts of its square."""
    found = tabular.enumerate_all(mdp, logits_SA)
    scores_NTD, exact_D = tabular.scores(found, logits_SA), tabular.exact_gradient(mdp, logits_SA)
    length = float(exact_D.norm())
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    for name, values_TS in learned(mdp, logits_SA, found).items():
        numbers[name] = {}
        for lam in LAMBDAS:
            mean_D, variance = tabular.moments(found, scores_NTD, advantages(found, values_TS, lam))
            bias = float((mean_D - exact_D).norm()) / length
            numbers[name][str(lam)] = {"bias": bias if bias > 1e-12 else 0.0, "variance": variance / length**2}
    return numbers


def learned(mdp: tabular.Mdp, logits_SA: torch.Tensor, found: tabular.Trajectories) -> dict[str, torch.Tensor]:
    """Values (T, S) by critic: means of the true values over what it cannot tell apart, weighed by how often the policy
    is there, which is what regression on rewards to go tends to."""
    values_TS = tabular.state_values(mdp, logits_SA)
    visits_TS = torch.stack([_visits(found, t) for t in range(HORIZON)])
    worth_TS = visits_TS * values_TS
    return {
        "step and state": values_TS,
        "the state alone": (worth_TS.sum(0) / visits_TS.sum(0)).expand(HORIZON, STATES),
        "the step alone": (worth_TS.sum(1) / visits_TS.sum(1)).unsqueeze(1).expand(HORIZON, STATES),
        "nothing": (worth_TS.sum() / visits_TS.sum()).expand(HORIZON, STATES),
    }


def _visits(found: tabular.Trajectories, t: int) -> torch.Tensor:
    """How probable each state is at step t (S)."""
    return torch.zeros(STATES, dtype=torch.float64).index_add(0, found.states_NT[:, t], found.probabilities_N)


def advantages(found: tabular.Trajectories, values_TS: torch.Tensor, lam: float) -> torch.Tensor:
    """Generalised advantages of every trajectory (N, T)."""
    values_NT = values_TS[torch.arange(HORIZON), found.states_NT]
    ended_NT = torch.zeros_like(values_NT)
    ended_NT[:, -1] = 1
    return gae(found.rewards_NT, values_NT, torch.zeros_like(values_NT[:, 0]), ended_NT, gamma=1.0, lam=lam)


def error(one: dict[str, float], batch: int) -> float:
    """Root mean square distance of the mean of `batch` estimates from the gradient, in parts of its length."""
    return (one["bias"] ** 2 + one["variance"] / batch) ** 0.5


def study_limit(limit: int) -> dict[str, float]:
    """A task that pays 1 a step for ever, cut after `limit` steps: what a critic that cannot see the clock learns."""
    return {
        "cut": fixed_point(limit, goes_on=False),
        "cut_by_hand": 1 / (1 - GAMMA * (1 - 1 / limit)),
        "goes_on": fixed_point(limit, goes_on=True),
        "true": 1 / (1 - GAMMA),
    }


def fixed_point(limit: int, *, goes_on: bool) -> float:
    """The value at which the mean TD error of an episode of `limit` steps is 0. `goes_on` adds the value of the state
    where time was up to the last reward, as `actor_critic.collect` does. The mean error is a straight line in it."""
    ended_ET = torch.zeros(1, limit, dtype=torch.float64)
    ended_ET[:, -1] = 1

    def error_at(value: float) -> float:
        values_ET, rewards_ET = torch.full_like(ended_ET, value), torch.ones_like(ended_ET)
        rewards_ET[:, -1] += GAMMA * value * goes_on
        return float(gae(rewards_ET, values_ET, values_ET[:, -1], ended_ET, gamma=GAMMA, lam=0.0).mean())

    return error_at(0) / (error_at(0) - error_at(1))


def critic_table(numbers: dict[str, Any]) -> Table:
    """Bias and variance by what the critic sees."""
    columns = ["the critic sees", *(f"{what}, λ = {lam:g}" for lam in SHOWN for what in ("bias", "variance"))]
    rows = [
        [name, *(f"{found[str(lam)][what]:.3f}" for lam in SHOWN for what in ("bias", "variance"))]
        for name, found in numbers["critics"].items()
    ]
    return Table("Generalised advantages from one trajectory, in parts of the exact gradient", columns, rows, "critics")


def batch_table(numbers: dict[str, Any], critic: str = "the step alone") -> Table:
    """The error of a batch's mean by lambda."""
    found = numbers["critics"][critic]
    rows = [[lam, *(f"{error(one, batch):.3f}" for batch in BATCHES)] for lam, one in found.items()]
    columns = ["λ", *(f"{batch:,} trajectories" if batch > 1 else "1 trajectory" for batch in BATCHES)]
    return Table(f"Error of the estimate where the critic sees {critic}", columns, rows, "batches")


def limit_table(numbers: dict[str, Any]) -> Table:
    """Values by time limit."""
    rows = [[int(limit), f"{one['cut']:.1f}", f"{one['goes_on']:.1f}"] for limit, one in numbers["limits"].items()]
    columns = ["cut after", "value, the cut taken for an end", "value, going on beyond it"]
    return Table("1 a step for ever, discounted by 0.99", columns, rows, "limits")


def training_table(numbers: dict[str, Any]) -> Table:
    """The returns of the training."""
    rows = [[steps, round(score, 1)] for steps, score in numbers["training"]["curve"]]
    return Table("A training on CartPole, until solved", ["steps", "mean return"], rows)


def findings(numbers: dict[str, Any]) -> list[str]:
    """What the tables say."""
    aliased, limits = numbers["critics"]["the step alone"], numbers["limits"]
    best = {batch: min(aliased, key=lambda lam: error(aliased[lam], batch)) for batch in (BATCHES[0], BATCHES[-1])}
    solved = numbers["training"]["solved_at"]
    return [
        f"A critic that does not see the state biases the gradient by {aliased['0.0']['bias']:.2f} of itself "
        "at λ = 0, and not at all at λ = 1.",
        f"Which λ errs least depends on the batch: {best[1]} with one trajectory, {best[BATCHES[-1]]} with "
        f"{BATCHES[-1]:,}.",
        f"Where a cut after 50 steps is taken for an end, a state worth {limits['50']['true']:.0f} is valued at "
        f"{limits['50']['cut']:.1f}; {LEAVING:.0f} for leaving at once would be taken.",
        f"CartPole was solved after {solved:,} steps." if solved else "CartPole was not solved in the short training.",
    ]
