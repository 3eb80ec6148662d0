"""The YAML configuration: strict sections (`sections`, `curation`, `rollouts`), all together (`run`), many runs
(`sweep`), sizes (`sizes`), reading and errors (`load`).

Imports no torch, so that `finetune --help` and configuration errors come at once.
"""

from finetune.config.curation import CurationConfig
from finetune.config.load import json_schema, load_config, load_curation, load_each, load_sweep, to_yaml
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
from finetune.config.sweep import SweepConfig

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
    "SweepConfig",
    "TrainingConfig",
    "json_schema",
    "load_config",
    "load_curation",
    "load_each",
    "load_sweep",
    "parse_size",
    "to_yaml",
]
