"""An adapter as PEFT's two files, and back into a model that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def adapter_files(model: PeftModel) -> dict[str, bytes]:
    """What PEFT would save of the trained adapter, as bytes by file name: equal adapters give equal bytes."""
    found = get_peft_model_state_dict(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    fields = model.peft_config["default"].to_dict() | {"inference_mode": True}
    config = json.dumps(fields, indent=2, sort_keys=True, default=sorted)  # PEFT's sets have no order
    return {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: config.encode()}


def require_plain(folder: Path) -> None:
    """Raises ValueError where an adapter's configuration has PEFT import modules that it names, OSError where it cannot
    be read."""
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(fields, dict) or fields.get("megatron_config"):
        raise ValueError(f"{CONFIG} is no object, or asks for a module by name (megatron_config)")


@torch.no_grad()
def load_adapter(model: PeftModel, folder: Path) -> None:
    """Copies the tensors of a saved adapter into the model's own, which keep their type and place.

    Raises OSError and safetensors' SafetensorError for a file that cannot be read, ValueError for one that is of
    another adapter.
    """
    tensors = load_file(folder / WEIGHTS)
    missing = get_peft_model_state_dict(model).keys() ^ tensors.keys()
    if missing:
        raise ValueError(f"{folder / WEIGHTS} is of another adapter: {min(missing)} is not in both")
    set_peft_model_state_dict(model, tensors)
