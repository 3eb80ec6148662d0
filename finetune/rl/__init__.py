"""Reinforcement learning: policy gradients and their baselines, provably right on problems small enough to enumerate.

policy_gradient.py  REINFORCE and what multiplies its scores: returns, reward to go, advantages (GAE)
baselines.py        what is taken off a return: constant, leave-one-out, group mean, optimal
tabular.py          small decision processes: every trajectory, the exact gradient, exact moments of estimators
baird.py            Baird's counterexample: off-policy semi-gradient learning that diverges, and two ways that do not

Shapes: B trajectories, T steps, S states, A actions, N enumerated trajectories, K samples of a group.
"""
