"""Training: TRL's trainer, checked against the description, watched while it runs.

trainer.py      the trainer of the run's method, with adapters left in their own dtype
watched.py      what every one has: memory followed, tokens counted, held-out figures
guarded.py      a batch that does not fit is split, an update that is no number is not taken, from update.py, which
                keeps the micro batches of an update; halves.py and randomness.py serve it; nonfinite.py finds the rows
sharded.py      the frozen base shared out among processes, which are kept in step
together.py     what the processes of a run tell each other of an update
sampling.py     completions sampled in halves
guards.py       what the guards have seen: notes, files, counts; spikes.py: losses that stand out
compiled.py     layers compiled in training passes
supervised.py   sft; preference.py: dpo; online.py: rloo and grpo; each on TRL's
trial.py        rewards tried before the run, and what their baseline saves
audit.py        what was built is what was described
packing.py      rows of a pack do not see each other, proven before training
rehearsal.py    the largest batches and a checkpoint, before training begins
unchanged.py    a trainer that is used and then as it was
evaluation.py   held-out loss per token
checkpoints.py  written whole, read back, kept; the newest good one
saved_state.py  what a checkpoint holds, and how it comes back; state_tree.py: in files without code
keeper.py       when checkpoints are written, and where one cannot be
interrupts.py   Ctrl-C and the signals of a host
ending.py       the adapter at the end, and its rehearsal
determinism.py  which operation gives other bits when a step is done twice
memory.py       memory of the run on its device
metrics.py      metrics.jsonl, tokens per second
noise.py        gradient noise scale, from the micro batches of an update
progress.py     the bar on the terminal
reporters.py    TensorBoard, W&B, MLflow, Trackio
"""

from finetune.training.audit import audit
from finetune.training.checkpoints import is_good, newest_good, passed_over, step_of
from finetune.training.compiled import require_compiler
from finetune.training.determinism import first_difference
from finetune.training.ending import save_adapter
from finetune.training.halves import lack_of_memory
from finetune.training.interrupts import Interrupts
from finetune.training.keeper import Keeper
from finetune.training.memory import MemoryMeter, peak_resident
from finetune.training.metrics import MetricsWriter
from finetune.training.nonfinite import finite
from finetune.training.packing import PackingProof, prove_packing
from finetune.training.progress import ProgressBar
from finetune.training.rehearsal import Rehearsal, rehearse
from finetune.training.reporters import prepare_reporters
from finetune.training.trainer import build_trainer
from finetune.training.trial import announced, check_rewards, try_rewards
from finetune.training.watched import Watched

__all__ = [
    "Interrupts",
    "Keeper",
    "MemoryMeter",
    "MetricsWriter",
    "PackingProof",
    "ProgressBar",
    "Rehearsal",
    "Watched",
    "announced",
    "audit",
    "build_trainer",
    "check_rewards",
    "finite",
    "first_difference",
    "is_good",
    "lack_of_memory",
    "newest_good",
    "passed_over",
    "peak_resident",
    "prepare_reporters",
    "prove_packing",
    "rehearse",
    "require_compiler",
    "save_adapter",
    "step_of",
    "try_rewards",
]
