"""The YAML configuration: strict sections (`sections`), sizes (`sizes`), reading and errors (`load`).

Imports no torch, so that `finetune --help` and configuration errors come at once.
"""

from finetune.config.load import json_schema, load_config, to_yaml
from finetune.config.sections import (
    DataConfig,
    DataSource,
    HardwareConfig,
    LoraSection,
    ModelConfig,
    QuantizationConfig,
    RunConfig,
    TrainingConfig,
)
from finetune.config.sizes import parse_size

__all__ = [
    "DataConfig",
    "DataSource",
    "HardwareConfig",
    "LoraSection",
    "ModelConfig",
    "QuantizationConfig",
    "RunConfig",
    "TrainingConfig",
    "json_schema",
    "load_config",
    "parse_size",
    "to_yaml",
]
