"""`finetune lab reinforce`: what each baseline does to bias and variance of REINFORCE, computed and not sampled."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import torch

from finetune.rl import baselines, tabular
from finetune.rl.policy_gradient import gae, reward_to_go, surrogate, whole_return
from finetune.rl.reinforce_plots import plots
from finetune.study import Study, Table

QUESTION = "What may be taken off a return, and what does it do to the gradient?"
STATES, ACTIONS, HORIZON, SEED = 3, 2, 4, 0
ARMS = (1.0, -0.5, 2.0)
LOGITS = (0.3, -0.2, 0.1)
GROUPS = (2, 4, 8)
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
VALUE_ERROR = 0.5
"""How wrong the critic is, for the bias that generalised advantages have of it: added to the value of state 0."""
SETTINGS = {
    "problem": f"{STATES} states, {ACTIONS} actions, {HORIZON} steps, drawn; every trajectory is enumerated",
    "bandit": f"rewards {ARMS}, a softmax policy",
    "groups": f"of {', '.join(map(str, GROUPS))} samples, every group is enumerated",
}


@cache
def run() -> Study:
    """Runs everything: seconds on one core."""
    mdp = tabular.random_mdp(STATES, ACTIONS, HORIZON, SEED)
    generator = torch.Generator().manual_seed(SEED)
    logits_SA = torch.randn(STATES, ACTIONS, generator=generator, dtype=torch.float64)
    numbers = {
        "estimators": study_estimators(mdp, logits_SA),
        "groups": {size: study_group(size) for size in GROUPS},
        "lambdas": {str(lam): study_lambda(mdp, logits_SA, lam) for lam in LAMBDAS},
        "example": example(),
        "cloning": cloning(),
    }
    tables = [estimator_table(numbers), group_table(numbers), lambda_table(numbers)]
    return Study("reinforce", QUESTION, SETTINGS, numbers, tables, findings(numbers), plots(numbers))


def study_estimators(mdp: tabular.Mdp, logits_SA: torch.Tensor) -> dict[str, dict[str, float]]:
    """Bias and variance of the estimate from one trajectory, by what weighs its scores."""
    found = tabular.enumerate_all(mdp, logits_SA)
    scores_NTD = tabular.scores(found, logits_SA)
    to_go_NT = reward_to_go(found.rewards_NT)
    whole_NT = whole_return(found.rewards_NT)
    values_NT = tabular.state_values(mdp, logits_SA)[torch.arange(mdp.horizon), found.states_NT]
    best = baselines.optimal(scores_NTD.sum(1), whole_NT[:, 0], found.probabilities_N)
    mean = found.probabilities_N @ whole_NT[:, 0]
    weights = {
        "whole return": whole_NT,
        "whole return − its mean": whole_NT - mean,
        "whole return − the best constant": whole_NT - best,
        "reward to go": to_go_NT,
        "reward to go − state value": to_go_NT - values_NT,
        "reward to go − its own reward": to_go_NT - found.rewards_NT,
    }
    exact_D = tabular.exact_gradient(mdp, logits_SA)
    return {name: _judged(found, scores_NTD, weight_NT, exact_D) for name, weight_NT in weights.items()}


def study_lambda(mdp: tabular.Mdp, logits_SA: torch.Tensor, lam: float) -> dict[str, float]:
    """The same for generalised advantages with a critic that is wrong about one state."""
    found = tabular.enumerate_all(mdp, logits_SA)
    values_TS = tabular.state_values(mdp, logits_SA)
    values_TS[:, 0] += VALUE_ERROR
    values_NT = values_TS[torch.arange(mdp.horizon), found.states_NT]
    ended_NT = torch.zeros_like(values_NT)
    ended_NT[:, -1] = 1
    advantages_NT = gae(found.rewards_NT, values_NT, torch.zeros_like(values_NT[:, 0]), ended_NT, gamma=1.0, lam=lam)
    return _judged(found, tabular.scores(found, logits_SA), advantages_NT, tabular.exact_gradient(mdp, logits_SA))


def _judged(
    found: tabular.Trajectories, scores_NTD: torch.Tensor, weights_NT: torch.Tensor, exact_D: torch.Tensor
) -> dict[str, float]:
    """Length of the bias in parts of the gradient's, and the variance in parts of its square."""
    mean_D, variance = tabular.moments(found, scores_NTD, weights_NT)
    length = float(exact_D.norm())
    return {"bias": _rounded(float((mean_D - exact_D).norm()) / length), "variance": variance / length**2}


def study_group(size: int) -> dict[str, float]:
    """Groups of samples of a bandit: how long the expected gradient is, and the variance, with each baseline."""
    logits_A = torch.tensor(LOGITS, dtype=torch.float64)
    policy_A, rewards_A = logits_A.softmax(0), torch.tensor(ARMS, dtype=torch.float64)
    exact_A = tabular.exact_gradient(tabular.bandit(list(ARMS)), logits_A.unsqueeze(0))
    actions_GK = torch.tensor(list(itertools.product(range(len(ARMS)), repeat=size)))
    scores_GKA = torch.eye(len(ARMS), dtype=torch.float64)[actions_GK] - policy_A
    returns_GK, probabilities_G1 = rewards_A[actions_GK], policy_A[actions_GK].prod(1, keepdim=True)
    numbers = {}
    for name, baseline_GK in {
        "none": torch.zeros_like(returns_GK),
        "group_mean": baselines.group_mean(returns_GK),
        "leave_one_out": baselines.leave_one_out(returns_GK),
    }.items():
        estimates_GA = (scores_GKA * (returns_GK - baseline_GK).unsqueeze(-1)).mean(1)
        mean_A = (probabilities_G1 * estimates_GA).sum(0)
        variance = float((probabilities_G1 * (estimates_GA - mean_A).square()).sum())
        numbers[name] = float(mean_A @ exact_A / exact_A.square().sum())
        numbers[f"{name}_variance"] = variance / float(exact_A.square().sum())
    return numbers


def example() -> dict[str, list[float]]:
    """One trajectory with rewards to go 3, 1, -1 and their mean as baseline: what multiplies each score."""
    returns_BT = reward_to_go(torch.tensor([[2.0, 2.0, -1.0]]))
    log_probs_BT = torch.zeros(1, 3, requires_grad=True)
    surrogate(log_probs_BT, returns_BT - returns_BT.mean()).backward()
    return {"returns": returns_BT[0].tolist(), "weights": log_probs_BT.grad[0].tolist()}


def cloning() -> dict[str, float]:
    """Demonstrations under a softmax policy: the gradient of supervised learning beside REINFORCE's with reward 1."""
    generator = torch.Generator().manual_seed(SEED)
    logits_TA = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    shown_T = torch.randint(7, (5,), generator=generator)
    log_probs_BT = logits_TA.log_softmax(1).gather(1, shown_T.unsqueeze(1)).T
    reinforced = torch.autograd.grad(surrogate(log_probs_BT, torch.ones(1, 5).double()), logits_TA)[0]
    loss = torch.nn.functional.cross_entropy(logits_TA, shown_T, reduction="sum")
    supervised = torch.autograd.grad(loss, logits_TA)[0]
    return {"difference": _rounded(float((reinforced + supervised).abs().max())), "length": float(supervised.norm())}


def _rounded(value: float) -> float:
    """Rounding errors of float64 are none."""
    return 0.0 if abs(value) < 1e-12 else value


def estimator_table(numbers: dict[str, Any]) -> Table:
    """Bias and variance by weight."""
    rows = [[name, _short(one["bias"]), _short(one["variance"])] for name, one in numbers["estimators"].items()]
    columns = ["scores weighed by", "bias", "variance"]
    return Table("REINFORCE from one trajectory, in parts of the exact gradient", columns, rows, "estimators")


def group_table(numbers: dict[str, Any]) -> Table:
    """What is left of the gradient, and the variance, by size of the group."""
    heads = ("none", "group_mean", "leave_one_out")
    columns = ["samples", *(f"{head.replace('_', ' ')}{what}" for head in heads for what in ("", ", variance"))]
    rows = [
        [size, *(_short(found[f"{head}{what}"]) for head in heads for what in ("", "_variance"))]
        for size, found in numbers["groups"].items()
    ]
    return Table(
        "Groups of a bandit: the expected gradient over the exact one, and its variance", columns, rows, "groups"
    )


def lambda_table(numbers: dict[str, Any]) -> Table:
    """Bias against variance along lambda."""
    rows = [[lam, _short(one["bias"]), _short(one["variance"])] for lam, one in numbers["lambdas"].items()]
    title = f"Generalised advantages where the critic is {VALUE_ERROR} off in one state"
    return Table(title, ["λ", "bias", "variance"], rows, "lambda")


def _short(value: float) -> str:
    return f"{value:.3f}"


def findings(numbers: dict[str, Any]) -> list[str]:
    """What the tables say."""
    estimators, groups = numbers["estimators"], numbers["groups"]
    first, last = (estimators[name]["variance"] for name in ("whole return", "reward to go − state value"))
    return [
        "A baseline that does not see the action leaves the expected gradient as it is: bias 0 to rounding.",
        f"Reward to go and state values take the variance from {first:.2f} to {last:.2f} of the squared gradient.",
        f"A group's own mean leaves {groups[4]['group_mean']:.2f} of the gradient with 4 samples: 1 − 1/4. "
        f"Leave-one-out leaves {groups[4]['leave_one_out']:.2f}.",
        "Supervised learning on demonstrations is REINFORCE with reward 1: the gradients are one.",
    ]
