"""Rows from a data set on the Hugging Face hub, or from its copy in the local cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from finetune.data.json_files import Placed
from finetune.data.parquet_files import without_nulls
from finetune.errors import ConfigError, DataError, FinetuneError

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLITS = {"train": ("train",), "eval": ("validation", "test")}
"""Splits taken where the configuration names none: the first that the data set has."""

PATIENCE = 5
"""Seconds after which the hub counts as unreachable; `datasets` itself would try for 23."""


def read_hub(name: str, split: str | None, role: Literal["train", "eval"]) -> tuple[str, list[Placed]]:
    """The split that was taken and its rows. `name` is `org/name`, or `org/name:configuration`.

    Raises ConfigError where the data set or split cannot be had, DataError where its files cannot be read.
    """
    splits = _load(name)
    wanted = (split,) if split else SPLITS[role]
    found = next((one for one in wanted if one in splits), None)
    if found is None:
        raise ConfigError(
            f"{name}: no split {' or '.join(wanted)}; it has {', '.join(splits)}",
            f"name one of them: data.{role} as a list of sources with path and split",
        )
    return found, [(f"row {row}", without_nulls(value)) for row, value in enumerate(splits[found].to_list(), start=1)]


def _load(name: str) -> DatasetDict:
    import datasets

    repository, _, configuration = name.partition(":")
    offline = datasets.config.HF_HUB_OFFLINE
    # Unreachable, `datasets` would retry before it looks into its cache; told so, it looks there at once.
    datasets.config.HF_HUB_OFFLINE = offline or not _reachable(repository)
    try:
        return datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # anything at all: the hub, its data and their readers each raise their own
        raise _explain(name, error) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def _reachable(repository: str) -> bool:
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi(endpoint=datasets.config.HF_ENDPOINT).dataset_info(repository, timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return True  # it answered, or need not be asked; loading tells what is wrong
    except Exception:
        return False
    return True


def _explain(name: str, error: Exception) -> FinetuneError:
    import datasets

    if isinstance(error, ConnectionError):
        return ConfigError(
            f"{name}: no such file, and the hub cannot be reached for a data set of that name",
            "check the spelling; or connect (unset HF_HUB_OFFLINE); or name a file",
        )
    if isinstance(error, datasets.exceptions.DatasetGenerationError):
        return DataError(
            f"{name}: its files cannot be read: {_said(error.__cause__ or error)}", "name another data set"
        )
    reason = _said(error)
    if "onfig name" in reason or "BuilderConfig" in reason:
        return ConfigError(f"{name}: {reason}", f"name the configuration after a colon: {name.partition(':')[0]}:NAME")
    if "gated" in reason:
        return ConfigError(f"{name}: {reason}", "accept its terms on the hub, then log in: `hf auth login`")
    return ConfigError(
        f"{name}: no such file, and not loaded from the hub: {reason}", "check the spelling, or name a file"
    )


def _said(error: BaseException) -> str:
    """The words of a library's error on one line, cut where they run on."""
    return " ".join(str(error).split())[:300]
