"""Reinforcement learning: policy gradients and their baselines, provably right on problems small enough to enumerate;
and deep reinforcement learning on Gymnasium.

policy_gradient.py  REINFORCE and what multiplies its scores: returns, reward to go, advantages (GAE)
baselines.py        what is taken off a return: constant, leave-one-out, group mean, optimal
tabular.py          small decision processes: every trajectory, the exact gradient, exact moments of estimators
baird.py            Baird's counterexample: off-policy semi-gradient learning that diverges, and ways that do not
maximisation.py     how far the maximum of noisy estimates is too high, and what Double makes of it
environments.py     Gymnasium's environments side by side, evaluation, networks
reinforce.py, actor_critic.py, dqn.py     the algorithms, a file each
replay.py, alarms.py, ablation.py         what DQN learns from, what goes wrong before its return does, and watching it
completion.py       a completion as rewards see it, and what scores it
rewards.py          rewards of completions: from the configuration to scorers, and their weighted sum
text_rewards.py     exact answer, pattern, shape, length
reward_process.py   a function of the user's in a process of its own (reward_worker.py)
reward_trial.py     rewards tried before a run
saving.py           what a baseline does to the variance of a policy gradient, on real rollouts

Shapes: B trajectories, T steps, S states, A actions, N enumerated trajectories, K samples of a group.
"""
