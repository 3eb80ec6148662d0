"""Report: what a run leaves behind.

run_dir.py   the run directory: claimed, filled, or gone again
lock.py      one writer at a time
inputs.py    what a run is made of, as hashes; receipt.py: receipt.json, and whether it still holds
write.py     report.json: predicted beside measured
schema.py    what report.json and preflight.json may hold
pages.py     report.md and report.html from them; facts.py, batch.py, wording.py and templates/ serve it
curves.py    figures of what was measured; areas.py of what was predicted, from timeline.py; svg.py draws both
"""

from finetune.report.inputs import data_inputs, setting_inputs
from finetune.report.pages import headline, write_pages
from finetune.report.receipt import Check, Receipt, check_inputs, check_machine, check_outputs, read_receipt
from finetune.report.run_dir import RunDir
from finetune.report.write import Measured, write_report

__all__ = [
    "Check",
    "Measured",
    "Receipt",
    "RunDir",
    "check_inputs",
    "check_machine",
    "check_outputs",
    "data_inputs",
    "headline",
    "read_receipt",
    "setting_inputs",
    "write_pages",
    "write_report",
]
