"""Prompts for methods that answer them themselves (rloo, grpo): rendered, tokenised, and looked at by the contract."""

from __future__ import annotations

from finetune.config import RunConfig
from finetune.data.breaches import Inspector
from finetune.data.contract import Breach, breach
from finetune.data.encode import Encoded, Encoder
from finetune.data.example import Example
from finetune.data.faults import RowFault
from finetune.data.formats import Converted
from finetune.data.rows import Role
from finetune.data.splits import Prompt, Split, SplitStats, rows_of, sources_of
from finetune.data.turns import TemplateFault
from finetune.spec.loss import IGNORED

WORDS = ("user", "tool")
"""Roles of the turn that is answered."""


def prompt_split(
    converted: list[Converted], role: Role, encoder: Encoder, run: RunConfig
) -> tuple[Split, list[Breach]]:
    """The prompts of a split that leave room for a completion, and every breach of the mask contract.

    Raises DataError where rows need a chat template and the tokenizer has none.
    """
    room = run.data.max_length - run.rollout.max_completion_length
    breaches = [Breach.of(role, one.row, one.fault) for one in converted if one.fault]
    inspector = Inspector(encoder)
    kept: list[tuple[Example, Prompt]] = []
    too_long = 0
    for one in converted:
        for example in one.examples:
            try:
                prompt = _prompt(one, example, encoder)
            except TemplateFault as fault:
                breaches.append(Breach.of(role, example, breach(fault.rule, fault.detail)))
                continue
            length = len(prompt.input_ids)
            too_long += length > room
            if length > room and run.data.on_truncation == "drop":
                continue
            faults = [*_without_room(length, room, run), *inspector.prompt_faults(example, prompt.input_ids)]
            breaches += [Breach.of(role, example, fault) for fault in faults]
            if length <= room:
                kept.append((example, prompt))
    prompts = [prompt for _, prompt in kept]
    stats = SplitStats(
        source=sources_of(role, run.data),
        format=", ".join(dict.fromkeys(example.format for example, _ in kept)),
        rows=len(kept),
        tokens=sum(len(prompt.input_ids) for prompt in prompts),
        trained_tokens=0,
        longest=max((len(prompt.input_ids) for prompt in prompts), default=0),
        truncated=too_long,
        dropped=rows_of(converted) - len(kept),
    )
    return Split([example for example, _ in kept], [_row(prompt) for prompt in prompts], stats, prompts), breaches


def _prompt(one: Converted, example: Example, encoder: Encoder) -> Prompt:
    """The conversation up to the last answer, which is the row's own, or up to its end."""
    turn = encoder.answered_turn(example)
    written, ids = encoder.encode_prompt(example, turn)
    answer = example.messages[turn]["content"] if turn < len(example.messages) else None
    asked = next((message["content"] for message in reversed(example.messages[:turn]) if message["role"] in WORDS), "")
    return Prompt(example.where, asked, written, ids, answer or None, one.row.value)


def _without_room(length: int, room: int, run: RunConfig) -> list[RowFault]:
    if length <= room:
        return []
    completion = run.rollout.max_completion_length
    detail = (
        f"its prompt of {length:,} tokens leaves no room for rollout.max_completion_length={completion} within "
        f"data.max_length={run.data.max_length}"
    )
    return [breach("no_trained_token", detail)]


def _row(prompt: Prompt) -> Encoded:
    return Encoded(prompt.input_ids, [IGNORED] * len(prompt.input_ids), len(prompt.input_ids))
