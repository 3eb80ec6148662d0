"""Completions sampled in halves where memory runs out, and yet the ones that all prompts together would have got."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from finetune.errors import DoesNotFit
from finetune.training.halves import in_halves, lack_of_memory
from finetune.training.randomness import drawn_for, random_state, set_random_state

if TYPE_CHECKING:
    from finetune.training.online import OnlineTrainer


def sampled(
    trainer: OnlineTrainer, generate: Callable[[list[list[int]]], list[list[int]]], prompts: Sequence[list[int]]
) -> list[list[int]]:
    """One completion of each prompt by `generate`. Of a part of the prompts each token is drawn as among all of them,
    and random numbers end where the part that draws most tokens leaves them, as the whole would."""
    device, ends = trainer.args.device, []
    before = random_state(device)

    def of(rows: Sequence[int]) -> list[list[int]]:
        set_random_state(before, device)
        with drawn_for(rows, len(prompts)), _padded_to(trainer, max(map(len, prompts))):
            found = _undisturbed(trainer, generate, [prompts[row] for row in rows])
        ends.append((max(map(len, found)), random_state(device)))
        return found

    parts = in_halves(of, range(len(prompts)), trainer.on_split)
    set_random_state(max(ends, key=lambda end: end[0])[1], device)
    return [ids for part in parts for ids in part]


@contextmanager
def within_memory(trainer: OnlineTrainer) -> Iterator[None]:
    """Raises DoesNotFit where completions cannot be sampled or scored even one at a time; not in a rehearsal."""
    try:
        yield
    except RuntimeError as error:
        reason = lack_of_memory(error)
        if reason is None or trainer.guards is None:
            raise
        raise DoesNotFit(
            f"out of memory in update {trainer.state.global_step + 1}, where completions are sampled: {reason}",
            "; ".join(trainer.guards.advice()) or "lower rollout.max_completion_length or rollout.num_generations",
        ) from None


@contextmanager
def _padded_to(trainer: OnlineTrainer, tokens: int) -> Iterator[None]:
    """Prompts of a part are as wide as those of the whole: dropout draws a number for padding too."""
    before, trainer.pad_to_multiple_of = trainer.pad_to_multiple_of, tokens
    try:
        yield
    finally:
        trainer.pad_to_multiple_of = before


def _undisturbed(trainer: OnlineTrainer, generate: Callable[[Any], Any], prompts: list[list[int]]) -> Any:
    """TRL switches checkpointing of activations off to sample, and where that fails not on again."""
    was_on = trainer.model.is_gradient_checkpointing
    try:
        return generate(prompts)
    except RuntimeError as error:
        if lack_of_memory(error) and was_on and not trainer.model.is_gradient_checkpointing:
            trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        raise
