"""Cards by name: their memory, how fast they compute, and what else takes memory on them.

Memory is what torch reports (`total_memory`), which is what a run can have: less than the box says, by what the driver
keeps. Drivers differ by a percent, so each row holds the smallest figure found in public reports, or 97 % of what
nvidia-smi shows, the smallest share found. Rates are peaks of dense products from NVIDIA's data sheets and white papers
(Turing, GA102, A100, Ada, H100, RTX Blackwell): 16-bit factors summed in float32, as torch sums them. GeForce cards do
that at half the speed that their advertising gives, which sums in float16 or skips zeros. Cards below capability 7.5
are left out: CUDA 13, which torch's wheels are built with, has no kernels for them.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from finetune.config import parse_size
from finetune.errors import ConfigError
from finetune.spec import Device

MIB = 2**20
CPU_PROCESS_BYTES = 2304 * MIB
"""Interpreter, libraries, data and what malloc keeps: the quickstart's resident peak less its tensors (measured)."""
CONTEXT_MIB = {(7, 5): 141, (8, 0): 501, (8, 6): 256, (8, 9): 426}
"""Largest CUDA context measured on a generation: T4, A100, RTX 3090, RTX 6000 Ada."""
NOT_A_NAME = {"nvidia", "geforce", "tesla", "quadro", "rtx", "generation", "edition", "gpu"}
VARIANT = re.compile(r"\d+gb|pcie|sxm|hbm3e?|nvl|blackwell|workstation|server")


@dataclass(frozen=True)
class Card:
    """A graphics card: memory in MiB, compute capability, peak rates in TFLOP/s, memory bandwidth in GB/s.

    `variant` are words that tell it from others of its name, or that drivers add; `context_mib` is None where the
    CUDA context was not measured.
    """

    memory_mib: int
    capability: tuple[int, int]
    tensor_tflops: float
    fp32_tflops: float
    bandwidth: int
    variant: str
    context_mib: int | None = None

    @property
    def memory_bytes(self) -> int:
        """What torch reports as the card's total memory."""
        return self.memory_mib * MIB

    @property
    def context_bytes(self) -> int:
        """What a CUDA context takes: measured, or the largest measured on its generation, or on any."""
        return (self.context_mib or _generation_context(self.capability)) * MIB


CARDS = {
    "T4": Card(14_930, (7, 5), 65, 8.1, 320, "16gb", 141),
    "RTX 2080 Ti": Card(10_926, (7, 5), 53.8, 13.4, 616, "11gb"),
    "RTX 3060 12GB": Card(11_931, (8, 6), 25.5, 12.7, 360, ""),
    "RTX 3070": Card(7_941, (8, 6), 40.6, 20.3, 448, "8gb"),
    "RTX 3080 10GB": Card(10_009, (8, 6), 59.5, 29.8, 760, ""),
    "RTX 3080 12GB": Card(11_919, (8, 6), 61.3, 30.6, 912, ""),
    "RTX 3090": Card(24_124, (8, 6), 71.2, 35.6, 936, "24gb", 256),
    "RTX 3090 Ti": Card(24_114, (8, 6), 80, 40, 1008, "24gb"),
    "RTX 4060 Ti 8GB": Card(7_942, (8, 9), 44.1, 22.1, 288, ""),
    "RTX 4060 Ti 16GB": Card(15_885, (8, 9), 44.1, 22.1, 288, ""),
    "RTX 4070 Ti Super": Card(15_934, (8, 9), 88.2, 44.1, 672, "16gb"),
    "RTX 4080": Card(16_049, (8, 9), 97.5, 48.7, 717, "16gb"),
    "RTX 4090": Card(24_082, (8, 9), 165.2, 82.6, 1008, "24gb"),
    "RTX 5070 Ti": Card(15_814, (12, 0), 87.9, 43.9, 896, "16gb"),
    "RTX 5080": Card(15_814, (12, 0), 112.6, 56.3, 960, "16gb"),
    "RTX 5090": Card(32_117, (12, 0), 209.5, 104.8, 1792, "32gb"),
    "RTX A4000": Card(15_979, (8, 6), 76.7, 19.2, 448, "16gb"),
    "RTX A5000": Card(24_114, (8, 6), 111.1, 27.8, 768, "24gb"),
    "RTX A6000": Card(48_676, (8, 6), 154.8, 38.7, 768, "48gb"),
    "RTX 6000 Ada": Card(48_622, (8, 9), 364.2, 91.1, 960, "48gb", 426),
    "RTX PRO 6000": Card(97_250, (12, 0), 503.8, 126, 1792, "96gb blackwell workstation server"),
    "A10": Card(22_587, (8, 6), 125, 31.2, 600, "24gb"),
    "A10G": Card(22_587, (8, 6), 70, 35, 600, "24gb"),
    "A30": Card(24_058, (8, 0), 165, 10.3, 933, "24gb pcie"),
    "A100-40GB": Card(40_337, (8, 0), 312, 19.5, 1555, "sxm pcie", 501),
    "A100-80GB": Card(81_051, (8, 0), 312, 19.5, 1935, "sxm pcie", 501),
    "L4": Card(22_343, (8, 9), 121, 30.3, 300, "24gb", 226),
    "L40S": Card(45_589, (8, 9), 362, 91.6, 864, "48gb"),
    "H100 PCIe": Card(81_008, (9, 0), 756, 51, 2000, "80gb"),
    "H100 SXM": Card(81_079, (9, 0), 989, 67, 3350, "80gb hbm3"),
    "H200": Card(143_156, (9, 0), 989, 67, 4800, "141gb sxm"),
}


def find_card(text: str) -> Device:
    """The assumed device for a card's name (`RTX 4090`, `t4`, `A100 80GB`) or a size (`24GiB`).

    Raises ConfigError for a name that is unknown or that several cards have, and for a size without a unit.
    """
    if re.fullmatch(r"[\d.]+\s*[KMGT]i?B|[\d.]{1,3}", text.strip(), re.IGNORECASE):
        return _card_of_size(text)
    names = _named(text)
    if len(names) > 1:
        raise ConfigError(f"--gpu: {text!r} is several cards", f"say which: {', '.join(names)}")
    if not names:
        near = difflib.get_close_matches(text.upper(), list(CARDS), n=1, cutoff=0.4)
        raise ConfigError(
            f"--gpu: {text!r} is not a known card" + (f"; did you mean {near[0]}?" if near else ""),
            f"known are {', '.join(CARDS)}; any other by its memory, such as 24GiB",
        )
    card = CARDS[names[0]]
    bf16 = card.capability >= (8, 0)
    return Device("cuda", names[0], card.memory_bytes, bf16, present=False, capability=card.capability)


def card_of(device: Device) -> Card | None:
    """The table's card that a device is, by the name that the driver or `find_card` gave it; None where none is.

    Where cards share the name, the one whose memory is nearest to the device's.
    """
    cards = [CARDS[name] for name in _named(device.name)] if device.kind == "cuda" else []
    return min(cards, key=lambda card: abs(card.memory_bytes - device.memory_bytes), default=None)


def context_bytes(device: Device) -> int:
    """Memory that a process takes beside its tensors: the CUDA context; on the CPU, Python and its libraries."""
    if device.kind == "cpu":
        return CPU_PROCESS_BYTES
    card = card_of(device)
    return card.context_bytes if card else _generation_context(device.capability) * MIB


def context_measured(device: Device) -> bool:
    """Whether `context_bytes` was measured on this very card, not taken from another of its generation."""
    card = card_of(device)
    return card is not None and card.context_mib is not None


HANDLES = 2
"""cuBLAS handles of a run: that of Python's thread and that of autograd's."""


def workspace_bytes(device: Device) -> int:
    """cuBLAS workspaces inside torch's caching allocator, which counts them as allocated.

    torch gives each cuBLAS handle a workspace on each stream it is used on, at its first product, and keeps it. Handles
    belong to threads, and training has two: Python's runs the forward pass, autograd's the backward pass, checkpointed
    layers included. One is 8.125 MiB (`:4096:2:16:8`), and 32 MiB on Hopper and Blackwell; cuBLASLt shares it
    (torch 2.13, `aten/src/ATen/cuda/CublasHandlePool.cpp`; before pytorch#175344 Blackwell had the small one).
    """
    if device.kind == "cpu":
        return 0
    return HANDLES * (32 * MIB if device.capability and device.capability >= (9, 0) else 8_519_680)


def _card_of_size(text: str) -> Device:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigError(f"--gpu: {error}", "such as --gpu 24GiB, or a card such as --gpu 'RTX 4090'") from None
    return Device("cuda", f"a card of {text.strip()}", size, bf16=True, present=False)


def _generation_context(capability: tuple[int, int] | None) -> int:
    return CONTEXT_MIB.get(capability, max(CONTEXT_MIB.values()))


def _named(text: str) -> list[str]:
    """Names of the cards that `text` can mean: the same model words, and no variant word that the card lacks."""
    model, variant = _words(text)
    found = []
    for name, card in CARDS.items():
        known, variants = _words(f"{name} {card.variant}")
        if model == known and variant <= variants:
            found.append(name)
    return found


def _words(text: str) -> tuple[set[str], set[str]]:
    """The words of a card's name, apart: those of the model (`4070`, `ti`), and those of a variant (`16gb`, `pcie`)."""
    text = re.sub(r"(\d)\s*gi?b\b", r"\1gb", text.lower())
    text = re.sub(r"sxm\d", "sxm", text)
    text = re.sub(r"(rtx|(?<=\d)ti|super)", r" \1 ", text)
    words = set(re.findall(r"[a-z0-9]+", text)) - NOT_A_NAME
    variant = {word for word in words if VARIANT.fullmatch(word)}
    return words - variant, variant
