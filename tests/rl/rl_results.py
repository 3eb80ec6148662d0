"""benchmarks/rl_pages.py: the committed results of the trainings, as the pages show them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from repo import REPO


def pages() -> ModuleType:
    """The module, which is no part of the package."""
    if str(REPO / "benchmarks") not in sys.path:
        sys.path.append(str(REPO / "benchmarks"))
    return importlib.import_module("rl_pages")
