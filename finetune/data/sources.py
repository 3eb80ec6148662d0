"""The rows of `data:` by split: read, converted source by source, and held out by share."""

from __future__ import annotations

import random

from finetune.config import DataConfig, DataSource
from finetune.data.formats import Converted, convert
from finetune.data.rows import Role, read_rows
from finetune.data.rules.fingerprints import digest
from finetune.errors import DataError


def read_splits(config: DataConfig, seed: int) -> dict[Role, list[Converted]]:
    """Rows to train and, where any are held out, to evaluate on; each source has a format of its own.

    Equal rows stay together where `data.eval_fraction` holds out, be they copies that a weight makes or not.
    Raises ConfigError for what cannot be found, DataError for what cannot be read.
    """
    train = _converted(config.train, "train", config.format, seed)
    if config.eval is not None:
        return {"train": train, "eval": _converted(config.eval, "eval", config.format, seed)}
    if not config.eval_fraction:
        return {"train": train}
    keys = [digest(one.examples) if one.examples else one.row.where for one in train]
    different = list(dict.fromkeys(keys))
    chosen = set(random.Random(seed).sample(different, round(config.eval_fraction * len(different))))
    if not 0 < len(chosen) < len(different):
        raise DataError(
            f"data.eval_fraction={config.eval_fraction} of {len(different)} rows leaves a split empty",
            "add rows or change the share",
        )
    kept, held_out = [], []
    for key, one in zip(keys, train, strict=True):
        (held_out if key in chosen else kept).append(one)
    return {"train": kept, "eval": held_out}


def _converted(sources: str | list[DataSource], role: Role, format: str, seed: int) -> list[Converted]:
    if isinstance(sources, str) or not sources:
        return convert(read_rows(sources, role=role, seed=seed), format)[0]
    each = [convert(read_rows([source], role=role, seed=seed), format)[0] for source in sources]
    return [one for part in each for one in part]
