"""What was found and decided about the data, said aloud before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.config import DataConfig
from finetune.data.faults import count_of

if TYPE_CHECKING:
    from finetune.data.encode import Encoder
    from finetune.data.splits import Split, SplitStats


def notes_of(train: Split, held_out: Split | None, encoder: Encoder, config: DataConfig) -> list[str]:
    """Lines about each split: its size and format, and what of it the model will not see."""
    splits = {"train": train, "eval": held_out}
    return [f"{role}: {note}" for role, split in splits.items() if split for note in _about(split, encoder, config)]


def _about(split: Split, encoder: Encoder, config: DataConfig) -> list[str]:
    stats = split.stats
    how = "found by looking" if config.format == "auto" else "as configured"
    noun, trained = ("prompt", "") if split.prompts else ("row", f", {_share(stats)} of them trained")
    notes = [
        f"{stats.source}: {count_of(stats.rows, noun)} of format {stats.format} ({how}), {stats.tokens:,} tokens"
        f"{trained}, longest {noun} {stats.longest:,}"
    ]
    if stats.truncated and split.prompts:
        notes.append(f"{count_of(stats.truncated, 'prompt')} that leave no room for a completion, left out")
    elif stats.truncated:
        what = "left out" if config.on_truncation == "drop" else "cut there"
        notes.append(f"{count_of(stats.truncated, 'row')} longer than data.max_length={config.max_length}, {what}")
    if unwritten := sum(row.unwritten for row in split.rows):
        turns = count_of(unwritten, "assistant turn")
        notes.append(f"the chat template leaves out or changes words of {turns}, such as earlier reasoning")
    if told := sum(encoder.tells_tools(example) for example in split.examples):
        notes.append(f"the chat template has no tool calls: those of {count_of(told, 'row')} are written as JSON text")
    return notes


def _share(stats: SplitStats) -> str:
    return f"{stats.trained_tokens / stats.tokens:.0%}"
