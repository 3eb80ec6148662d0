"""Environment steps and seconds until an environment is solved, by each algorithm over several seeds, beside SB3's.

    python benchmarks/rl_solved.py [--env CartPole-v1] [--seeds 10] [--peers] [--json FILE]

Solved is the first evaluation, of 20 greedy episodes, with a mean return of Gymnasium's threshold; all are evaluated
every EVERY steps, which is not counted in the seconds. Settings were chosen on other seeds, below 20.
`--peers` runs Stable-Baselines3's A2C and DQN (pip install stable-baselines3) in the same process, with the settings
that its zoo tuned for the environment. Seconds are the processor's, on one thread; each seed runs all algorithms in
turn, so that a busy minute falls on all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from environment import environment

from finetune.rl import actor_critic, dqn, reinforce
from finetune.rl.environments import Outcome

FIRST_SEED = 100
EVERY = 2_048
"""Environment steps from one evaluation to the next."""

OURS: dict[str, dict[str, tuple[Any, Any]]] = {
    "CartPole-v1": {
        "reinforce": (reinforce, reinforce.ReinforceSettings()),
        "reinforce without a baseline": (reinforce, reinforce.ReinforceSettings(baseline=False)),
        "actor-critic": (actor_critic, actor_critic.A2CSettings()),
        "actor-critic, first choice": (actor_critic, actor_critic.A2CSettings(rollout=5, entropy_weight=0.01)),
        "dqn": (dqn, dqn.DQNSettings()),
    },
    "Acrobot-v1": {
        "reinforce": (
            reinforce,
            reinforce.ReinforceSettings(
                env_id="Acrobot-v1",
                envs=8,  # all first episodes last 500 steps: fewer at once make more updates
                value_steps=20,  # the critic has to get from 0 to -60 before its baseline is one
                entropy_weight=1.0,  # where no episode has reached the end yet, noise must not settle the policy
            ),
        ),
        "actor-critic": (
            actor_critic,
            actor_critic.A2CSettings(env_id="Acrobot-v1", rollout=5),  # measured: 8 takes several times the steps
        ),
        "actor-critic, first choice": (actor_critic, actor_critic.A2CSettings(env_id="Acrobot-v1")),
        "dqn": (
            dqn,
            dqn.DQNSettings(
                env_id="Acrobot-v1",
                steps=100_000,  # and so twice as long an exploration: the end is rarely reached by chance
                hidden=64,  # enough, and several times as fast
                learning_rate=1e-3,
                train_every=64,  # the same share of gradient steps as on CartPole, in rounds a quarter as long
                gradient_steps=32,
                target_every=32,
            ),
        ),
    },
}

ZOO = {
    "CartPole-v1": {
        "a2c": {"steps": 500_000, "envs": 8, "normalised": False, "settings": {}},
        "dqn": {
            "steps": 50_000, "envs": 1, "normalised": False,
            "settings": {
                "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000,
                "gamma": 0.99, "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128,
                "exploration_fraction": 0.16, "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]},
            },
        },
    },
    "Acrobot-v1": {
        "a2c": {"steps": 500_000, "envs": 16, "normalised": True, "settings": {}},
        "dqn": {
            "steps": 100_000, "envs": 1, "normalised": False,
            "settings": {
                "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "learning_starts": 0,
                "gamma": 0.99, "target_update_interval": 250, "train_freq": 4, "gradient_steps": -1,
                "exploration_fraction": 0.12, "exploration_final_eps": 0.1, "policy_kwargs": {"net_arch": [256, 256]},
            },
        },
    },
}  # fmt: skip
"""Stable-Baselines3's settings, as its zoo tuned them (rl-baselines3-zoo, hyperparams/a2c.yml and dqn.yml)."""


def main() -> None:
    """Runs every algorithm over the seeds, prints as it goes, and writes."""
    options = _arguments()
    torch.set_num_threads(1)
    algorithms = ours(options.env, options.steps) | (peers(options.env, options.steps) if options.peers else {})
    chosen = {name: train for name, train in algorithms.items() if not options.only or name in options.only}
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in chosen}
    for seed in seeds:
        for name, train in chosen.items():
            outcomes[name].append(train(seed))
            print(f"{seed} {name:<30} {outcomes[name][-1].solved_at}", flush=True)
    result = {
        "env": options.env,
        "seeds": seeds,
        "runs": {name: summary(found) for name, found in outcomes.items()},
        "environment": facts(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def facts() -> dict[str, Any]:
    """What it was measured on, the versions of the environments and of the peer too."""
    try:
        peer = metadata.version("stable-baselines3")
    except metadata.PackageNotFoundError:
        peer = None
    return environment() | {"gymnasium": metadata.version("gymnasium"), "stable_baselines3": peer}


def ours(env_id: str, steps: int | None) -> dict[str, Callable[[int], Outcome]]:
    """Our algorithms by name, each a function of a seed; `steps`, where given, is how long each may train."""
    changed = {"evaluate_every": EVERY} | ({"steps": steps} if steps else {})
    plans = {
        name: (module, dataclasses.replace(settings, **changed)) for name, (module, settings) in OURS[env_id].items()
    }
    return {
        name: lambda seed, module=module, settings=settings: module.train(settings, seed)[1]
        for name, (module, settings) in plans.items()
    }


def peers(env_id: str, steps: int | None) -> dict[str, Callable[[int], Outcome]]:
    """The same of Stable-Baselines3."""
    return {
        f"sb3 {name}": lambda seed, name=name, plan=plan: peer(env_id, name, plan, seed, steps or plan["steps"])
        for name, plan in ZOO[env_id].items()
    }


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Steps to solve of each seed (None where not), their median where all did, seconds of each and microseconds of an
    environment step, and the returns of every evaluation."""
    solved = [outcome.solved_at for outcome in outcomes]
    steps = sum(outcome.curve[-1][0] for outcome in outcomes)
    return {
        "solved_at": solved,
        "median": statistics.median(solved) if all(solved) else None,
        "seconds": [round(outcome.seconds, 2) for outcome in outcomes],
        "microseconds_a_step": round(1e6 * sum(outcome.seconds for outcome in outcomes) / steps, 1),
        "curves": [outcome.curve for outcome in outcomes],
    }


def peer(env_id: str, name: str, plan: dict[str, Any], seed: int, steps: int) -> Outcome:
    """One training of Stable-Baselines3, evaluated as ours are, until solved."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    outcome = Outcome()

    class Look(BaseCallback):
        """Evaluates as `Outcome.judge` does, with the clock stopped."""

        def __init__(self) -> None:
            super().__init__()
            self.began, self.next = time.process_time(), EVERY

        def _on_step(self) -> bool:
            if self.num_timesteps < self.next:
                return True
            self.next += EVERY
            outcome.seconds += time.process_time() - self.began
            solved = outcome.judge(env_id, best, self.num_timesteps, seed)
            self.began = time.process_time()
            return not solved

    envs = make_vec_env(env_id, n_envs=plan["envs"], seed=seed)
    envs = VecNormalize(envs) if plan["normalised"] else envs
    model = getattr(stable_baselines3, name.upper())("MlpPolicy", envs, seed=seed, device="cpu", **plan["settings"])

    def best(seen: torch.Tensor) -> torch.Tensor:
        seen = envs.normalize_obs(seen.numpy()) if plan["normalised"] else seen.numpy()
        return torch.as_tensor(model.predict(seen, deterministic=True)[0])

    model.learn(steps, callback=Look())
    return outcome


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", choices=OURS, default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--steps", type=int, help="the most steps of a training, in place of each algorithm's own")
    parser.add_argument("--only", action="append", help="only this run; may be repeated")
    parser.add_argument("--peers", action="store_true", help="Stable-Baselines3 too")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
