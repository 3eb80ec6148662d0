"""Batching: how many rows an update takes, how large its step is, and what that costs.

updates.py      updates of an epoch and of a run, warm-up, the last partial batch
scaling.py      learning rate with batch size: the rules, and when each fails
suggestion.py   what a measured noise scale says of the batch
noise_scale.py  gradient noise scale, exact and from the micro batches of a run; needs torch, so it is imported by name
problems.py, descent.py, variance.py, rates.py   gradient descent and its stochastic kin, on two convex problems
descent_lab.py, descent_measures.py, epochs_to_target.py, descent_plots.py   `finetune lab descent`
digits.py, linear_rule.py, time_to_target.py   training runs on digits: the rules against a reference, and the knee
batch_lab.py, batch_plots.py   `finetune lab batch`
"""

from finetune.batching.scaling import Doubt, scaling_doubts, scaling_ratio
from finetune.batching.suggestion import NoiseScale, noise_words
from finetune.batching.updates import Updates, count_updates, require_enough

__all__ = [
    "Doubt",
    "NoiseScale",
    "Updates",
    "count_updates",
    "noise_words",
    "require_enough",
    "scaling_doubts",
    "scaling_ratio",
]
