"""Rewards tried before a run: on the rows' own answers before a weight is loaded, then on completions of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from finetune.spec import RunSpec
from finetune.training.unchanged import unchanged

if TYPE_CHECKING:
    from finetune.data import LoadedData, Prompt
    from finetune.rl.rewards import Completion
    from finetune.rl.saving import Saving
    from finetune.training.online import OnlineTrainer
    from finetune.training.watched import Watched

TRIED = 64
"""Answers of the data that rewards are tried on."""

GROUPS = 4
"""Groups of the trial whose gradients are looked at, one backward pass for each completion."""


@dataclass(frozen=True)
class RewardTrial:
    """What was found: `notes` for people, and what the baseline does to the variance of the gradient."""

    notes: list[str] = field(default_factory=list)
    baseline: Saving | None = None


def announced(spec: RunSpec) -> list[str]:
    """What is to be said before code runs that the configuration names."""
    if not spec.config.training.online:
        return []
    functions = [reward.function for reward in spec.config.rewards if reward.type == "python"]
    return [
        f"rewards: {function} runs as you, with your files and network, in a process of its own"
        for function in dict.fromkeys(functions)
    ]


def check_rewards(spec: RunSpec, data: LoadedData) -> list[str]:
    """Tries the rewards on answers of the data; returns what is to be said. Raises DataError where they cannot be used,
    ConfigError where a function cannot be had."""
    if not spec.config.training.online:
        return []
    from finetune.rl.reward_trial import try_on_answers
    from finetune.rl.rewards import make_scorers

    scorers = make_scorers(spec.config.rewards)
    try:
        return try_on_answers(scorers, [_answered(data, prompt) for prompt in spread(data.train.prompts, TRIED)])
    finally:
        for scorer in scorers:
            scorer.close()


def try_rewards(spec: RunSpec, trainer: Watched) -> RewardTrial:
    """Samples groups of completions of `rollout.trial_prompts` prompts, scores them, and leaves the trainer as it was.

    Raises DataError where nothing can be learned from such rewards. Does nothing for methods without rewards.
    """
    rollout = spec.config.rollout
    if not (spec.config.training.online and rollout.trial_prompts):
        return RewardTrial()
    from finetune.rl.reward_trial import judge
    from finetune.rl.rewards import total

    prompts = spread(trainer.prompts, rollout.trial_prompts)
    size = rollout.num_generations
    with unchanged(trainer):
        asked = [prompt for prompt in prompts for _ in range(size)]
        ids = trainer.sample_all(asked)
        completions = trainer.completed(asked, ids)
        scores = trainer.scores(completions)
        trial = judge(trainer.scorers, _grouped(completions, size), scores, longest=rollout.max_completion_length)
        trial.require()
        saving = _saving(trainer, asked, ids, total(trainer.scorers, scores))
    return RewardTrial([*trial.notes, *([str(saving)] if saving else [])], saving)


def spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """At most `count` prompts, evenly spread."""
    count = min(count, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]


def _answered(data: LoadedData, prompt: Prompt) -> Completion:
    from finetune.rl.rewards import Completion

    answer = prompt.answer or ""
    tokens = len(data.tokenizer(answer, add_special_tokens=False)["input_ids"])
    return Completion(prompt.asked, answer, tokens, prompt.where, prompt.answer, prompt.columns)


def _grouped(completions: list[Completion], size: int) -> list[list[Completion]]:
    return [completions[start : start + size] for start in range(0, len(completions), size)]


def _saving(
    trainer: OnlineTrainer, prompts: Sequence[Prompt], ids: Sequence[list[int]], rewards: Sequence[float | None]
) -> Saving | None:
    """What the baseline saves on the first groups; None where rewards are missing."""
    from finetune.rl.saving import measure_saving

    count = min(GROUPS * trainer.num_generations, len(rewards))
    if any(reward is None for reward in rewards[:count]):
        return None
    rewards_GK = torch.tensor(rewards[:count]).view(-1, trainer.num_generations)
    return measure_saving(_scores(trainer, prompts[:count], ids[:count]), rewards_GK)


def _scores(trainer: OnlineTrainer, prompts: Sequence[Prompt], ids: Sequence[list[int]]) -> Iterator[torch.Tensor]:
    """∇ log π of each completion, as one vector of all trained tensors."""
    model = trainer.model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    for prompt, completion in zip(prompts, ids, strict=True):
        tokens = torch.tensor([[*prompt.input_ids, *completion]], device=trainer.args.device)
        labels = tokens.clone()
        labels[:, : len(prompt.input_ids)] = -100
        with trainer.accelerator.autocast():
            output: Any = model(input_ids=tokens, labels=labels, fused_lm_head=True, use_cache=False)
        gradients = torch.autograd.grad(output.log_probs.sum(), trained, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients, strict=True)]
        yield torch.cat([part.float().flatten() for part in parts])
