"""Before weights load: how much memory the run takes, and whether the machine has it.

closed_form.py   the peak of a training step, by a sum that a person can check
hardware.py      cards by name, and what else takes memory on them
verdict.py       prediction against device: fits or not, and what would make it fit
show.py          a verdict for people
"""

from finetune.preflight.closed_form import Prediction, predict
from finetune.preflight.hardware import find_card
from finetune.preflight.show import show
from finetune.preflight.verdict import Verdict, preflight

__all__ = ["Prediction", "Verdict", "find_card", "predict", "preflight", "show"]
