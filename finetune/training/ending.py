"""The end of a run: its adapter, whole or not at all; and a rehearsal of it, so that the last hour cannot be lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from peft import PeftConfig
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save

from finetune.errors import DoesNotFit, RunDirError
from finetune.spec.adapter_files import WEIGHTS, adapter_files
from finetune.whole_file import scratch_folder, write_folder

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

REHEARSAL = ".rehearsal.tmp"
"""Folder of what a rehearsal saves: gone at its end, and where that was not to be, when the run is resumed."""


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """The adapter in plain PEFT format, with the tokenizer and template it was trained with. Raises OSError."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        texts = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
    write_folder(target, {**adapter_files(model), **texts})


def rehearse_end(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves the real adapter below `folder`, reads it back, and merges its part into one layer of each kind.

    Raises DoesNotFit where it cannot be written, RunDirError where it does not come back as it was, or a layer cannot
    take its part.
    """
    with scratch_folder(folder / REHEARSAL) as aside:
        target = aside / "adapter"
        try:
            save_adapter(model, tokenizer, target)
            same = load_file(target / WEIGHTS), load(adapter_files(model)[WEIGHTS])
            PeftConfig.from_pretrained(str(target))
        except (OSError, SafetensorError, ValueError) as error:
            raise DoesNotFit(
                f"the adapter could not be saved in the rehearsal: {str(error).splitlines()[0]}",
                "free space, or name another output_dir",
            ) from None
        if not _equal(*same):
            raise RunDirError(
                f"{folder}: an adapter does not read back as it was written",
                "check the disk, or name an output_dir on another one",
            )
    for name, layer in _one_of_each_kind(model):
        _merge(name, layer)


def _equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _one_of_each_kind(model: PeftModel) -> Iterator[tuple[str, LoraLayer]]:
    """The first adapted layer of each name: q_proj, k_proj and so on."""
    seen = set()
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if isinstance(module, LoraLayer) and hasattr(module, "get_delta_weight") and kind not in seen:
            seen.add(kind)
            yield name, module


@torch.no_grad()
def _merge(name: str, layer: LoraLayer) -> None:
    """Adds the adapter's part to the layer's weight, as merging will, and sees that the sum can be saved."""
    if "default" not in getattr(layer, "lora_A", {}):
        return  # adapted embeddings and experts merge by rules of their own
    if hasattr(layer.get_base_layer().weight, "to_local"):
        return  # shared out among processes: a part of it is here
    weight = dequantize_module_weight(layer.get_base_layer())
    delta = layer.get_delta_weight("default")
    if delta.shape != weight.shape or not delta.isfinite().all():
        raise RunDirError(
            f"{name}: the adapter's part {list(delta.shape)} cannot be added to the weight {list(weight.shape)}",
            "this is a fault of finetune or of a library version it was not tried with; please report it",
        )
    merged = (weight + delta.to(weight.dtype)).cpu().contiguous()
    if not torch.equal(load(save({"weight": merged}))["weight"], merged):
        raise RunDirError(f"{name}: the merged weight does not read back as it was", "check this machine's memory")
