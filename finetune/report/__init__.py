"""Report: what a run leaves behind.

run_dir.py   the run directory: claimed, filled, or gone again
write.py     report.json: predicted beside measured
schema.py    what report.json may hold
pages.py     report.md and report.html from it; facts.py, wording.py, curves.py and templates/ serve it
"""

from finetune.report.pages import headline, write_pages
from finetune.report.run_dir import RunDir
from finetune.report.write import Measured, write_report

__all__ = ["Measured", "RunDir", "headline", "write_pages", "write_report"]
