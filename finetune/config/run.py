"""The whole configuration, section by section."""

from __future__ import annotations

from finetune.config.curation import CurationConfig
from finetune.config.sections import (
    DataConfig,
    HardwareConfig,
    LoraSection,
    ModelConfig,
    QuantizationConfig,
    Section,
    TrainingConfig,
)


class RunConfig(Section):
    """A whole run: the root of the YAML file."""

    model: ModelConfig
    quantization: QuantizationConfig = QuantizationConfig()
    lora: LoraSection = LoraSection()
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    hardware: HardwareConfig = HardwareConfig()
    curation: CurationConfig = CurationConfig()
    output_dir: str
    """The run directory; it must not hold a run yet."""
