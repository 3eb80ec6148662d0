"""The YAML configuration: strict sections (`sections`, `curation`, `rollouts`), all together (`run`), sizes (`sizes`),
reading and errors (`load`).

Imports no torch, so that `finetune --help` and configuration errors come at once.
"""

from finetune.config.curation import CurationConfig
from finetune.config.load import json_schema, load_config, load_curation, to_yaml
from finetune.config.rollouts import RewardConfig, RolloutConfig
from finetune.config.run import RunConfig
from finetune.config.sections import (
    DataConfig,
    DataSource,
    HardwareConfig,
    LoraSection,
    ModelConfig,
    QuantizationConfig,
    TrainingConfig,
)
from finetune.config.sizes import parse_size

__all__ = [
    "CurationConfig",
    "DataConfig",
    "DataSource",
    "HardwareConfig",
    "LoraSection",
    "ModelConfig",
    "QuantizationConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "TrainingConfig",
    "json_schema",
    "load_config",
    "load_curation",
    "parse_size",
    "to_yaml",
]
