"""Where metrics also go: TensorBoard, W&B, MLflow, Trackio, through transformers' own callbacks."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from finetune.errors import ConfigError


def prepare_reporters(names: list[str], run: Path) -> None:
    """Checks that the reporters are installed, and points TensorBoard and MLflow at the run directory.

    Raises ConfigError naming the package to install.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"training.report_to: {name} is not installed", f"pip install 'finetune[{name}]', or leave it out"
            )
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / "tensorboard")
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"file:{(run / 'mlflow').resolve()}")
