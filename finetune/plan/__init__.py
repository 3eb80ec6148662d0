"""Plan: the whole of a run before it starts, with reasons.

plan.py   what a plan holds, and its JSON
make.py   from a verdict and the size of the data to a plan, with what it would change
attention.py   what attention is of the operations, and what another kernel saves
show.py   a plan for people
"""

from finetune.plan.make import DataSize, make_plan, require_sense
from finetune.plan.plan import Plan
from finetune.plan.show import show_plan

__all__ = ["DataSize", "Plan", "make_plan", "require_sense", "show_plan"]
