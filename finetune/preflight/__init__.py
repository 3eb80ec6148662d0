"""Before weights load: how much memory, disk and time the run takes, and whether the machine has it.

The line, from a description to a verdict:

trace.py         two steps of the described run on the meta device, every byte followed
  step.py        the step: model prepared as the trainer does, forward, loss, backward, optimiser
  preference.py, rollout.py, sampling.py    the same for pairs, with a reference, and for completions sampled on the way
  loading.py     the order in which tensors come, and what passes on the way
  tape.py        births and deaths of storages, by cause
  kernels.py     what kernels take that no dispatch shows, and attention as the device will run it
  autocast.py, flash.py, offload.py, optimisers.py, shapes.py, flops.py
allocator.py     torch's caching allocator, simulated
prediction.py    a tape through the allocator: allocated, reserved, process, what is alive at the peak
depth.py         the same from two shallow traces, for whoever needs many
verdict.py       prediction against device: fits or not
  advice.py, largest.py, changes.py   what would make it fit, and the most that does
recomputing.py   whether activations are kept, where the configuration leaves it open
hardware.py, disk.py, duration.py     cards, disk and time
wide.py          every float32 tensor of a step, and why it is one
closed_form.py   the peak by a sum that a person can check, of instants.py, inference.py and letters.py
show.py          a verdict for people
"""

from finetune.preflight.hardware import find_card
from finetune.preflight.prediction import Prediction, predict
from finetune.preflight.recomputing import decide_recomputing
from finetune.preflight.show import show
from finetune.preflight.step import Batch
from finetune.preflight.trace import worst_batch
from finetune.preflight.verdict import Verdict, larger_micro_batch, preflight, priced, relief, solve

__all__ = [
    "Batch",
    "Prediction",
    "Verdict",
    "decide_recomputing",
    "find_card",
    "larger_micro_batch",
    "predict",
    "preflight",
    "priced",
    "relief",
    "show",
    "solve",
    "worst_batch",
]  # fmt: skip
