"""The parts of the line put together by hand, for tests that look inside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.config import load_config
from finetune.data import LoadedData, load_data
from finetune.model import build_model
from finetune.spec import RunSpec, describe
from finetune.training import Watched, build_trainer

torch.set_num_threads(1)  # the models are tiny: on a busy machine threads would only wait for each other


@dataclass(frozen=True)
class Assembly:
    """A described run, ready to train."""

    spec: RunSpec
    data: LoadedData
    trainer: Watched

    @property
    def model(self) -> torch.nn.Module:
        """The model with its adapter."""
        return self.trainer.model

    def adapter(self) -> dict[str, torch.Tensor]:
        """Copies of the trained tensors by name."""
        return {name: tensor.detach().clone() for name, tensor in self.trained().items()}

    def gradients(self) -> dict[str, torch.Tensor]:
        """Copies of the gradients of the trained tensors by name."""
        return {name: tensor.grad.clone() for name, tensor in self.trained().items()}

    def trained(self) -> dict[str, torch.Tensor]:
        """The trained tensors by name."""
        return {name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad}


def assemble(config: Path, *overrides: str) -> Assembly:
    """Describes, loads and builds what a configuration asks for; lora_B gets values, so that lora_A has gradients."""
    spec = describe(load_config(config, overrides))
    data = load_data(spec)
    model = build_model(spec)
    fill_adapter(model)
    return Assembly(spec, data, build_trainer(spec, model, data, Path(spec.config.output_dir) / "checkpoints"))


@torch.no_grad()
def fill_adapter(model: torch.nn.Module) -> None:
    """Seeded values for every lora_B, which starts at zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def one_batch(assembly: Assembly) -> dict[str, torch.Tensor]:
    """The first micro batch of the training rows, in the order of the file."""
    size = assembly.spec.config.training.micro_batch_size
    return assembly.data.collator(assembly.data.train_dataset.to_list()[:size])
