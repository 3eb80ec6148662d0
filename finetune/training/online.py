"""Learning from rewards of the model's own completions: TRL's RLOOTrainer and GRPOTrainer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from trl import GRPOTrainer, RLOOTrainer

from finetune.rl.rewards import Completion, Scorer, total
from finetune.spec.loss import NUMBER
from finetune.training.sampling import sampled, within_memory
from finetune.training.update import MicroBatch
from finetune.training.watched import Shape, Watched

if TYPE_CHECKING:
    from finetune.data import Prompt


class OnlineTrainer(Watched):
    """Comes before RLOOTrainer or GRPOTrainer. The reference policy is the base model, the adapter switched off.

    Prompts reach the model as they were rendered and tokenised when the data was read. `unscored` counts completions
    that a reward could not score; their rewards count for nothing.
    """

    NAMES: ClassVar[dict[str, str]] = {
        "frac_reward_zero_std": "dead_groups",
        "completions/mean_length": "completion_length",
        "completions/clipped_ratio": "completions_cut",
    }

    def __init__(self, *args: Any, scorers: Sequence[Scorer], prompts: Sequence[Prompt], **kwargs: Any) -> None:
        self.scorers, self.prompts, self.unscored = scorers, prompts, 0
        self._ids = {prompt.rendered: prompt.input_ids for prompt in prompts}
        super().__init__(*args, reward_funcs=[self._reward(scorer) for scorer in scorers], **kwargs)

    @property
    def rows_at_once(self) -> int:
        """Prompts answered together."""
        return self.args.generation_batch_size // self.num_generations

    def batch_of(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The prompts of one generation, each as often as it is answered."""
        filled = itertools.islice(itertools.cycle(rows), self.rows_at_once)
        return [row for row in filled for _ in range(self.num_generations)]

    def last_notes(self) -> list[str]:
        """See `Watched`."""
        unscored = [f"{self.unscored:,} completions could not be scored"] if self.unscored else []
        return [*super().last_notes(), *unscored]

    def rehearsing(self) -> None:
        """Completions as long as they may be, sampled anew for each update."""
        self.generation_config = copy.deepcopy(self.generation_config)
        self.generation_config.min_new_tokens = self.max_completion_length
        self._buffered_inputs = None

    def training_step(self, model: torch.nn.Module, inputs: list[dict[str, Any]], *args: Any) -> torch.Tensor:
        """One forward and backward pass, before the first of an update its completions; counts the batch."""
        longest = max(len(row["input_ids"]) for row in inputs)
        with self.memory.follow(self.model, self.optimizer, longest):
            return super().training_step(model, inputs, *args)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """A micro batch of completions, sampled where none are left; one that is there already stays."""
        if isinstance(generation_batch, dict) and "completion_mask" in generation_batch:
            return generation_batch
        with within_memory(self):
            batch = super()._prepare_inputs(generation_batch)
        if self.model.training and isinstance(batch, dict) and "completion_mask" in batch:
            trained = batch["completion_mask"].sum()
            self.count(len(batch["completion_mask"]), batch["prompt_mask"].sum() + trained, trained)
        return batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        made = super()._generate_and_score_completions(inputs)
        return {**made, NUMBER: torch.tensor([row[NUMBER] for row in inputs], device=self.args.device)}

    def rows(self, inputs: dict[str, Any]) -> int:
        """Completions."""
        return len(inputs["completion_ids"])

    def share(self, piece: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor | float | None:
        """The loss is a mean over completions."""
        return self.rows(piece) / self.rows(whole)

    def trained(self, inputs: dict[str, Any]) -> torch.Tensor:
        """See `Guarded`."""
        return inputs["completion_mask"].sum()

    def metric_weight(self, inputs: dict[str, Any], name: str) -> torch.Tensor | int:
        """Entropy is a mean over tokens, others over completions."""
        return self.trained(inputs) if name == "entropy" else self.rows(inputs)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict]:
        return [self._ids[prompt] for prompt in prompts], None, {}

    def _reward(self, scorer: Scorer) -> Callable[..., list[float | None]]:
        """A scorer as TRL calls it, which takes a reward's name from the function."""

        def score(completions: list[str], completion_ids: list[list[int]], number: list[int], **_: Any) -> list:
            found = zip(number, completions, completion_ids, strict=True)
            scores = scorer.score([completed(self.prompts[at], text, len(ids)) for at, text, ids in found])
            self.unscored += len(scorer.faults)
            return scores

        score.__name__ = scorer.name
        return score

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """Tokens of one completion of each prompt."""
        raise NotImplementedError

    def sample_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Tokens of one sampled completion of each prompt, by the model as it is, no more at once than in training."""
        was_training, size = self.model.training, self.args.generation_batch_size
        self.model.eval()
        batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        found = [ids for batch in batches for ids in self.sample([prompt.input_ids for prompt in batch])]
        self.model.train(was_training)
        return found

    def completed(self, prompts: Sequence[Prompt], ids: Sequence[list[int]]) -> list[Completion]:
        """Completions as rewards see them."""
        texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        return [completed(*one) for one in zip(prompts, texts, map(len, ids), strict=True)]

    def scores(self, completions: Sequence[Completion]) -> list[list[float | None]]:
        """Each scorer's scores of completions."""
        return [scorer.score(completions) for scorer in self.scorers]

    def held_out(self, rows: Sequence[Prompt]) -> dict[str, float]:
        """Mean reward of one sampled completion for each prompt, and how long they are. Sampled from a seed of its own
        each time, so that figures can be compared and training goes on as if nothing had been sampled."""
        rows = rows[: self.spec.config.rollout.eval_prompts]
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed)
            completions = self.completed(rows, self.sample_all(rows))
        rewards = [reward for reward in total(self.scorers, self.scores(completions)) if reward is not None]
        return {
            "reward": sum(rewards) / len(rewards) if rewards else float("nan"),
            "completion_length": sum(one.tokens for one in completions) / len(completions),
        }

    def largest_held_out(self) -> tuple[list[Prompt], Shape]:
        """The longest prompts that are answered together."""
        asked = self.eval_dataset[: self.spec.config.rollout.eval_prompts]
        longest = sorted(asked, key=lambda prompt: len(prompt.input_ids), reverse=True)
        longest = longest[: self.args.generation_batch_size]
        return longest, Shape("evaluation", len(longest), len(longest[0].input_ids) + self.max_completion_length)


class LeaveOneOutTrainer(OnlineTrainer, RLOOTrainer):
    """RLOO (Ahmadian et al. 2024): each completion's baseline is the mean reward of the others of its group."""

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """See `OnlineTrainer`."""
        return self._generate_single_turn(prompts, None, {})

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any) -> list[list[int]]:
        generate = super()._generate_single_turn
        return sampled(self, lambda prompts: generate(prompts, *args), prompt_ids)


class GroupTrainer(OnlineTrainer, GRPOTrainer):
    """GRPO (Shao et al. 2024): rewards less their group's mean, over its standard deviation."""

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """See `OnlineTrainer`."""
        return self._generate_single_turn(prompts, None, {}, self.num_generations)[0]

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any) -> tuple[list[list[int]], None]:
        generate = super()._generate_single_turn
        return sampled(self, lambda prompts: generate(prompts, *args)[0], prompt_ids), None

    def share(self, piece: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor | float | None:
        """TRL's losses divide by the tokens of all completions sampled together (a sum, then), by the micro batch's
        tokens, or by its completions."""
        if self.loss_type in ("dapo", "cispo", "vespo"):
            return None
        return self.trained(piece) / self.trained(whole) if self.loss_type == "bnpo" else super().share(piece, whole)

    def metric_weight(self, inputs: dict[str, Any], name: str) -> torch.Tensor | int:
        """Divergence, entropy and clipped shares are means over tokens."""
        return self.trained(inputs)

    def count_anew(self, micro_batches: list[MicroBatch]) -> None:
        """See `Guarded`. Tokens of all completions stand in each batch, and TRL takes the share of this update."""
        super().count_anew(micro_batches)
        tokens = sum(self.trained(micro.kept(self)) for micro in micro_batches)
        for micro in micro_batches:
            count = tokens * self.args.steps_per_generation / self.current_gradient_accumulation_steps
            micro.inputs = {**micro.inputs, "num_items_in_batch": count}


def completed(prompt: Prompt, text: str, tokens: int) -> Completion:
    """A completion as rewards see it."""
    return Completion(prompt.asked, text, tokens, prompt.where, prompt.answer, prompt.columns)
