"""Imports run one way, from the command line down to the errors; rooms beside each other do not know each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from repo import REPO

BELOW = {
    "errors": set(),
    "processes": {"config", "errors"},
    "study": set(),
    "cores": set(),
    "whole_file": set(),
    "json_lines": {"whole_file"},
    "live_tensors": set(),
    "regular_file": set(),
    "memory_limit": set(),
    "secrets": set(),
    "config": {"errors", "regular_file"},
    "spec": {"config", "cores", "errors", "regular_file"},
}
BELOW["embeddings"] = {"spec"} | BELOW["spec"]
TOOLKITS = {"batching", "curation", "rl", "senses", "sequence"}
FILES = {"whole_file", "regular_file", "json_lines", "secrets", "memory_limit", "processes"}
BELOW |= {toolkit: {"study", "embeddings", "live_tensors"} | FILES | BELOW["embeddings"] for toolkit in TOOLKITS}
ROOMS = {"report", "training", "model", "data", "preflight"}
BELOW |= {room: {"embeddings", "live_tensors"} | FILES | BELOW["embeddings"] | TOOLKITS for room in ROOMS}
BELOW["doctor"] = {"spec"} | BELOW["spec"]
BELOW["plan"] = {"preflight"} | BELOW["preflight"]
BELOW["pipeline"] = {"plan", "processes", "secrets"} | ROOMS | TOOLKITS | BELOW["embeddings"] | {"embeddings"}
BELOW["verify"] = {"json_lines"} | BELOW["pipeline"]
BELOW["export"] = FILES | BELOW["spec"]
BELOW["exporting"] = {"export"} | FILES | BELOW["pipeline"]
BELOW["sweep"] = {"study", "secrets", "whole_file", "cores", "config", "errors"}
BELOW["sweeping"] = {"sweep", "pipeline"} | FILES | BELOW["sweep"] | BELOW["pipeline"]
BELOW["cli"] = {"pipeline", "verify", "exporting", "sweep", "sweeping", "doctor", "study", "regular_file"} | BELOW[
    "pipeline"
]


def imported_rooms(source: str) -> set[str]:
    """Rooms of finetune that a module imports when it runs: imports for type checkers alone do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "finetune" else {f"finetune.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("finetune.")}


def test_imports_run_one_way() -> None:
    for path in sorted((REPO / "finetune").rglob("*.py")):
        relative = path.relative_to(REPO / "finetune")
        room = relative.parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        allowed = BELOW[room] | {room, "__version__"}
        assert imported_rooms(path.read_text(encoding="utf-8")) <= allowed, f"{relative} reaches up or sideways"


def test_an_import_that_reaches_up_is_seen() -> None:
    assert imported_rooms("from finetune.cli import main\nfrom finetune import pipeline") == {"cli", "pipeline"}


def test_command_line_and_configuration_import_no_torch() -> None:
    script = "import sys, finetune.cli, finetune.config, finetune.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0


def test_a_file_of_rows_is_checked_without_torch(tmp_path: Path) -> None:
    """Each process of a check would hold 400 MiB more."""
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    script = (
        "import sys, finetune.data\n"
        "finetune.data.check_file(sys.argv[1])\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    command = [sys.executable, "-c", script, tmp_path / "rows.jsonl"]
    assert subprocess.run(command, cwd=REPO, check=False).returncode == 0
