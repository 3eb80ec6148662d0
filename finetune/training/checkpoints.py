"""A manifest for every checkpoint, and the newest checkpoint that matches its own."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from transformers import TrainerCallback

MANIFEST = "manifest.json"


class ManifestWriter(TrainerCallback):
    """Writes the manifest once a checkpoint is complete: transformers writes checkpoints in place, and one
    without a manifest is half a checkpoint (transformers#35782)."""

    def on_save(self, args, state, control, **kwargs) -> None:
        """Called by the trainer after it has written `checkpoint-N`."""
        write_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def write_manifest(checkpoint: Path) -> None:
    """Records size and SHA-256 of every file of a checkpoint; the manifest appears whole or not at all."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {path.relative_to(checkpoint).as_posix(): _fingerprint(path) for path in files}
    partial = checkpoint / f"{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"files": entries}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(checkpoint / MANIFEST)


def is_good(checkpoint: Path) -> bool:
    """Whether every file that the manifest lists is there unchanged."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        return bool(listed) and all(_fingerprint(checkpoint / name) == entry for name, entry in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or not what we wrote
        return False


def newest_good(checkpoints: Path) -> Path | None:
    """The checkpoint with the highest step that is whole; None where there is none."""
    found = [path for path in checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    ordered = sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))
    return next((path for path in ordered if is_good(path)), None)


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
