"""Many runs of one configuration: the parts of `finetune sweep`, which `finetune.sweeping` puts together.

drawing.py   the trials: combinations and draws, by Ray Tune's variants
record.py    sweep.json: what became of each trial, whole on the disk after each
tuning.py    Ray Tune: trials at once, cards, early stopping, the end of all that was started
trial.py     one trial in Ray's worker: `finetune train` in a process of its own, its figures handed on
leash.py     that process ends when its worker does
jobs.py      what Ray's workers are given to do
outcome.py   what became of a trial, by what its run directory holds, and of the sweep
table.py     the trials for people: table, Markdown, picture

Ray is imported where a sweep starts, and nowhere else; torch by none of these, for Ray's workers import them.
"""
