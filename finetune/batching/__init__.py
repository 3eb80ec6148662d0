"""Batching: how many rows an update takes, how large its step is, and what that costs.

updates.py      updates of an epoch and of a run, warm-up, the last partial batch
scaling.py      learning rate with batch size: the rules, and when each fails
noise_scale.py  gradient noise scale, exact and from the micro batches of a run
"""

from finetune.batching.noise_scale import NoiseScale, NoiseScaleAverage, exact_noise_scale, unbiased_pair

__all__ = ["NoiseScale", "NoiseScaleAverage", "exact_noise_scale", "unbiased_pair"]
