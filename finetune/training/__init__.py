"""Training: TRL's trainer, checked against the description, watched while it runs.

trainer.py      the trainer: TRL's, with adapters left in their own dtype and tokens counted
audit.py        what was built is what was described
evaluation.py   held-out loss per token
checkpoints.py  a manifest for every checkpoint; the newest good one
metrics.py      metrics.jsonl, tokens per second, memory
progress.py     the bar on the terminal
reporters.py    TensorBoard, W&B, MLflow, Trackio
"""

from finetune.training.audit import audit
from finetune.training.checkpoints import ManifestWriter, newest_good
from finetune.training.evaluation import held_out_loss
from finetune.training.metrics import MemoryMeter, MetricsWriter
from finetune.training.progress import ProgressBar
from finetune.training.reporters import prepare_reporters
from finetune.training.trainer import Trainer, build_trainer

__all__ = [
    "ManifestWriter",
    "MemoryMeter",
    "MetricsWriter",
    "ProgressBar",
    "Trainer",
    "audit",
    "build_trainer",
    "held_out_loss",
    "newest_good",
    "prepare_reporters",
]
