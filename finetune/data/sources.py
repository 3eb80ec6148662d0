"""The rows of `data:` by split: read, converted source by source, and held out by share."""

from __future__ import annotations

import random

from finetune.config import DataConfig, DataSource
from finetune.data.formats import Converted, convert
from finetune.data.rows import Role, read_rows
from finetune.data.rules.fingerprints import digest
from finetune.errors import DataError


def read_splits(
    config: DataConfig, seed: int, method: str = "sft", train: list[Converted] | None = None
) -> dict[Role, list[Converted]]:
    """Rows that `method` trains and, where any are held out, evaluates on; each source has a format of its own. Rows to
    train on are read here unless they are given.

    Equal rows stay together where `data.eval_fraction` holds out, be they copies that a weight makes or not.
    Raises ConfigError for what cannot be found, DataError for what cannot be read.
    """
    train = _converted(config.train, "train", config, seed, method) if train is None else train
    if config.eval is not None:
        return {"train": train, "eval": _converted(config.eval, "eval", config, seed, method)}
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


def _converted(
    sources: str | list[DataSource], role: Role, config: DataConfig, seed: int, method: str
) -> list[Converted]:
    parts = [sources] if isinstance(sources, str) or not sources else [[source] for source in sources]
    each = [convert(read_rows(part, role=role, seed=seed), config.format, method)[0] for part in parts]
    return [one for part in each for one in part]
