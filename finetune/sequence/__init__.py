"""What a sequence costs: attention against recurrence.

costs.py      operations, parameters, memory, depth and path of each kind of layer, in closed form
decoder.py    the same for a row of a language model, and where attention is the most of it
counting.py   operations of what runs, with rules for the kernels that torch's counter passes over
mixers.py     attention: dense, fused, windowed, linear
cells.py      recurrent cells, step by step
measure.py    time, memory and exponents
recall.py     what can be remembered over a gap
studies.py    what is asked of the measurements
"""

from finetune.sequence.costs import Cost, mixing, pairs

__all__ = ["Cost", "mixing", "pairs"]
