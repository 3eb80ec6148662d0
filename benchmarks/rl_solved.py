"""Environment steps and seconds until an environment is solved, by each algorithm over several seeds, beside SB3's.

    python benchmarks/rl_solved.py [--env CartPole-v1] [--seeds 5] [--peers] [--json FILE]

Solved is the first evaluation, of 20 greedy episodes, with a mean return of Gymnasium's threshold; evaluations are not
counted in the seconds. `--peers` runs Stable-Baselines3's A2C and DQN (pip install stable-baselines3) in the same
process, with the settings that its zoo tuned for the environment and the same evaluation; ours runs those of DQN too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import environment

from finetune.rl import actor_critic, dqn, reinforce
from finetune.rl.environments import Outcome

OURS: dict[str, dict[str, tuple[Any, Any]]] = {
    "CartPole-v1": {
        "reinforce": (reinforce, reinforce.ReinforceSettings()),
        "reinforce without a baseline": (reinforce, reinforce.ReinforceSettings(baseline=False)),
        "actor-critic": (actor_critic, actor_critic.A2CSettings()),
        "dqn": (dqn, dqn.DQNSettings()),
    },
    "Acrobot-v1": {
        "reinforce": (reinforce, reinforce.ReinforceSettings(env_id="Acrobot-v1")),
        "actor-critic": (actor_critic, actor_critic.A2CSettings(env_id="Acrobot-v1")),
        "dqn": (dqn, dqn.DQNSettings(env_id="Acrobot-v1")),
    },
}

ZOO = {
    "CartPole-v1": {
        "a2c": {"steps": 500_000, "envs": 8, "settings": {}},
        "dqn": {
            "steps": 50_000, "envs": 1,
            "settings": {
                "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000,
                "gamma": 0.99, "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128,
                "exploration_fraction": 0.16, "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]},
            },
        },
    },
}  # fmt: skip
"""Stable-Baselines3's settings, as its zoo tuned them (rl-baselines3-zoo, hyperparams/a2c.yml and dqn.yml)."""


def main() -> None:
    """Runs every algorithm over the seeds, prints and writes as it goes."""
    options = _arguments()
    torch.set_num_threads(1)
    runs: dict[str, Callable[[int], Outcome]] = {
        name: lambda seed, module=module, settings=settings: module.train(settings, seed)[1]
        for name, (module, settings) in OURS[options.env].items()
    }
    if options.peers:
        runs |= {
            f"sb3 {name}": lambda seed, name=name, plan=plan: peer(options.env, name, plan, seed)
            for name, plan in ZOO[options.env].items()
        }
    chosen = {name: run for name, run in runs.items() if not options.only or name in options.only}
    result: dict[str, Any] = {"env": options.env, "seeds": options.seeds, "runs": {}}
    for name, run in chosen.items():
        result["runs"][name] = summary([run(seed) for seed in range(options.seeds)])
        print(f"{name:<30} {json.dumps(result['runs'][name])}", flush=True)
        if options.json:
            text = json.dumps({**result, "environment": environment()}, indent=1)
            options.json.write_text(text + "\n", encoding="utf-8")


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Steps to solve of each seed (None where not), their median, and microseconds of an environment step."""
    solved = [outcome.solved_at for outcome in outcomes]
    steps = sum(outcome.curve[-1][0] for outcome in outcomes)
    return {
        "solved_at": solved,
        "median": statistics.median(solved) if all(solved) else None,
        "seconds": [round(outcome.seconds, 1) for outcome in outcomes],
        "microseconds_a_step": round(1e6 * sum(outcome.seconds for outcome in outcomes) / steps, 1),
        "curves": [outcome.curve for outcome in outcomes],
    }


def peer(env_id: str, name: str, plan: dict[str, Any], seed: int) -> Outcome:
    """One training of Stable-Baselines3, looked at as often as ours, until solved."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    outcome, every = Outcome(), 8_000 if name == "a2c" else 2_048

    class Look(BaseCallback):
        """Evaluates as `Outcome.judge` does, with the clock stopped."""

        def __init__(self) -> None:
            super().__init__()
            self.began, self.next = time.perf_counter(), every

        def _on_step(self) -> bool:
            if self.num_timesteps < self.next:
                return True
            self.next += every
            outcome.seconds += time.perf_counter() - self.began
            solved = outcome.judge(env_id, lambda seen: torch.as_tensor(predict(seen)), self.num_timesteps, seed)
            self.began = time.perf_counter()
            return not solved

    envs = make_vec_env(env_id, n_envs=plan["envs"], seed=seed)
    model = getattr(stable_baselines3, name.upper())("MlpPolicy", envs, seed=seed, device="cpu", **plan["settings"])

    def predict(seen: torch.Tensor) -> Any:
        return model.predict(seen.numpy(), deterministic=True)[0]

    model.learn(plan["steps"], callback=Look())
    return outcome


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", choices=OURS, default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", help="only this run; may be repeated")
    parser.add_argument("--peers", action="store_true", help="Stable-Baselines3 too")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
