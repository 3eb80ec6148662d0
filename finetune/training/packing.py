"""Packing proven on the model itself: rows of one pack do not see each other, and score as they do alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from finetune.errors import DataError
from finetune.spec.loss import NUMBER

if TYPE_CHECKING:
    from finetune.training.supervised import SupervisedTrainer

TOLERANCE = {4: 1e-4, 2: 3e-2}
"""Largest allowed relative difference of a pack's logits from those of its rows alone, by bytes of the compute type.
Sums over other shapes are rounded otherwise; a row that is seen by another differs in the first digit."""
POSITIONS = 32
"""Positions of each row whose logits are compared: all of them would take more memory than training does."""


@dataclass(frozen=True)
class PackingProof:
    """What was seen: rows of the pack, its tokens, and the relative difference of its logits from those alone."""

    rows: int
    tokens: int
    difference: float

    def note(self) -> str:
        """The proof in a sentence."""
        return (
            f"packing: of {self.rows} rows in a pack of {self.tokens:,} tokens none sees another (bitwise), and each "
            f"scores as it does alone (logits within {self.difference:.1e})"
        )


def prove_packing(trainer: SupervisedTrainer) -> PackingProof | None:
    """Compares one pack of several rows with its rows alone, and with itself after its first row was replaced.

    None where no pack holds two rows. Raises DataError where a row sees another. Changes nothing: the model is in
    evaluation mode meanwhile and draws no random numbers.
    """
    pack = _chosen(trainer)
    if pack is None:
        return None
    model, was_training = trainer.model, trainer.model.training
    model.eval()
    try:
        with torch.no_grad():
            whole, alone = _logits(trainer, pack), torch.cat([_logits(trainer, row) for row in _rows(pack)])
            # The same shapes, another first row: where none sees another, not a bit of the others changes.
            seen = not torch.equal(_logits(trainer, _first_replaced(pack))[_kept(pack)], whole[_kept(pack)])
    finally:
        model.train(was_training)
    difference = float((whole - alone).norm() / alone.norm())
    _refuse(trainer, seen, difference)
    return PackingProof(len(pack["seq_lengths"]), len(pack["input_ids"]), difference)


def _refuse(trainer: SupervisedTrainer, seen: bool, difference: float) -> None:
    allowed = TOLERANCE[trainer.spec.compute_dtype.itemsize]
    if not seen and difference <= allowed:
        return
    found = (
        "a row of a pack changes with the row before it"
        if seen
        else f"a row scores otherwise in a pack than alone, by {difference:.1e} where {allowed:.0e} is rounding"
    )
    raise DataError(
        f"data.packing: {found} (attention {trainer.spec.attention}): the rows see each other",
        "set model.attention=sdpa, or data.packing=false",
    )


def _chosen(trainer: SupervisedTrainer) -> dict[str, Any] | None:
    """The shortest of the packs with the most rows among the first hundred."""
    first = trainer.train_dataset.select(range(min(100, len(trainer.train_dataset))))
    packs = [pack for pack in first if len(pack["seq_lengths"]) > 1]
    return max(packs, key=lambda pack: (len(pack["seq_lengths"]), -len(pack["input_ids"])), default=None)


def _rows(pack: dict[str, Any]) -> list[dict[str, Any]]:
    """Each row as a pack of its own."""
    found, start = [], 0
    for length in pack["seq_lengths"]:
        part = {key: pack[key][start : start + length] for key in ("input_ids", "labels")}
        found.append({**part, "seq_lengths": [length]})
        start += length
    return found


def _first_replaced(pack: dict[str, Any]) -> dict[str, Any]:
    """The pack with its first row written backwards, and by one token otherwise where that changes nothing."""
    length, ids = pack["seq_lengths"][0], list(pack["input_ids"])
    first = ids[:length][::-1]
    ids[:length] = first if first != ids[:length] else [ids[-1]] * length
    return {**pack, "input_ids": ids}


def _positions(pack: dict[str, Any]) -> list[int]:
    """Up to POSITIONS places of each row, evenly spread, its last among them."""
    found, start = [], 0
    for length in pack["seq_lengths"]:
        count = min(length, POSITIONS)
        found += [start + (index + 1) * length // count - 1 for index in range(count)]
        start += length
    return found


def _kept(pack: dict[str, Any]) -> slice:
    """Where the rows after the first stand among the positions."""
    return slice(min(pack["seq_lengths"][0], POSITIONS), None)


def _logits(trainer: SupervisedTrainer, pack: dict[str, Any]) -> torch.Tensor:
    """Logits at the pack's positions (positions, words), in float32."""
    device = trainer.args.device
    batch = trainer.data_collator([pack])
    inputs = {key: value.to(device) for key, value in batch.items() if key not in ("labels", "rows", "tokens", NUMBER)}
    autocast = trainer.spec.autocast
    with torch.autocast(device.type, autocast) if autocast else nullcontext():
        at = torch.tensor(_positions(pack), device=device)
        output = trainer.model(**inputs, logits_to_keep=at, use_cache=False)
    return output.logits[0].float()
