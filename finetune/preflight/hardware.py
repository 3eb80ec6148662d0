"""Cards by name: their memory, what they compute, and what the CUDA context takes.

Sizes are what the driver reports as total memory. Contexts are measured values (see FACTS of the project's truth
table: T4 105 to 141 MiB, L4 226, RTX 3090 256, RTX 6000 Ada 426, A100 501); cards not measured take the largest
of their generation.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from finetune.config import parse_size
from finetune.errors import ConfigError
from finetune.spec import Device

MIB = 2**20
CPU_PROCESS_BYTES = 1536 * MIB
"""Interpreter, libraries, data and what malloc keeps: the quickstart's resident peak less its tensors (measured)."""


@dataclass(frozen=True)
class Card:
    """A graphics card: total memory and CUDA context in bytes, compute capability."""

    memory_bytes: int
    capability: tuple[int, int]
    context_bytes: int


CARDS = {
    "T4": Card(15_095 * MIB, (7, 5), 141 * MIB),
    "RTX 3060": Card(12_036 * MIB, (8, 6), 256 * MIB),
    "RTX 3090": Card(24_124 * MIB, (8, 6), 256 * MIB),
    "RTX 4080": Card(16_076 * MIB, (8, 9), 426 * MIB),
    "RTX 4090": Card(24_082 * MIB, (8, 9), 426 * MIB),
    "RTX 6000 Ada": Card(48_651 * MIB, (8, 9), 426 * MIB),
    "A10G": Card(22_731 * MIB, (8, 6), 256 * MIB),
    "A100-40GB": Card(40_337 * MIB, (8, 0), 501 * MIB),
    "A100-80GB": Card(81_051 * MIB, (8, 0), 501 * MIB),
    "L4": Card(22_698 * MIB, (8, 9), 226 * MIB),
    "H100": Card(81_079 * MIB, (9, 0), 501 * MIB),
}


def find_card(text: str) -> Device:
    """The assumed device for a card's name (`RTX 4090`, `t4`) or a size (`24GiB`). Raises ConfigError."""
    if re.match(r"^[\d.]+\s*[A-Za-z]*$", text.strip()) and not _card_name(text):
        try:
            size = parse_size(text)
        except ValueError as error:
            raise ConfigError(f"--gpu: {error}", "such as --gpu 24GiB, or a card such as --gpu 'RTX 4090'") from None
        return Device("cuda", f"a {text.strip()} card", size, bf16=True, present=False)
    name = _card_name(text)
    if name is None:
        near = difflib.get_close_matches(text.upper(), list(CARDS), n=1, cutoff=0.4)
        raise ConfigError(
            f"--gpu: {text!r} is not a known card" + (f"; did you mean {near[0]}?" if near else ""),
            f"known are {', '.join(CARDS)}; any other by its memory, such as 24GiB",
        )
    card = CARDS[name]
    return Device("cuda", name, card.memory_bytes, card.capability >= (8, 0), present=False, capability=card.capability)


def context_bytes(device: Device) -> int:
    """Memory that a process takes beside its tensors: the CUDA context; on the CPU, Python and its libraries."""
    if device.kind == "cpu":
        return CPU_PROCESS_BYTES
    named = next((card for name, card in CARDS.items() if _plain(name) in _plain(device.name)), None)
    if named:
        return named.context_bytes
    if device.capability is None:
        return 501 * MIB
    return max(
        (card.context_bytes for card in CARDS.values() if card.capability <= device.capability), default=501 * MIB
    )


def workspace_bytes(device: Device) -> int:
    """cuBLAS workspaces inside the caching allocator: two handles of 8.125 MiB, of 32 MiB from Hopper on."""
    if device.kind == "cpu":
        return 0
    return 64 * MIB if device.capability and device.capability >= (9, 0) else 2 * 8_519_680


def _card_name(text: str) -> str | None:
    wanted = _plain(text)
    return next((name for name in CARDS if _plain(name) == wanted or _plain(name).removeprefix("rtx") == wanted), None)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
