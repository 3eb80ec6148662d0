"""Prediction against device: fits or not, and what would make it fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from finetune.batching import Updates, count_updates
from finetune.errors import ConfigError, DoesNotFit
from finetune.preflight.advice import Advice, advise
from finetune.preflight.changes import Changes, Prices, changed
from finetune.preflight.disk import Disk, disk_needs
from finetune.preflight.duration import Duration, expected_time, sampled_bytes
from finetune.preflight.hardware import context_bytes
from finetune.preflight.largest import largest
from finetune.preflight.prediction import ERRORS, Prediction, predict
from finetune.preflight.sharing import shared_out
from finetune.preflight.step import Batch
from finetune.preflight.trace import worst_batch
from finetune.spec import RunSpec
from finetune.spec.device import find_device

GIB = 2**30
MARGIN = ERRORS["allocated"]
"""Kept free, so that `fits` holds."""

KEYS = {"seq_len": "data.max_length", "micro_batch_size": "training.micro_batch_size"}


@dataclass(frozen=True)
class Verdict:
    """What a run takes and whether its device has it: `problems` are why it cannot run there, `advice` what to do.
    `updates` is None where the number of examples is unknown and nothing else says how long the run is."""

    spec: RunSpec
    prediction: Prediction
    batch: Batch
    disk: Disk
    duration: Duration
    updates: Updates | None = None
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    changes: list[Advice] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the device, present or assumed, has what the run takes."""
        return not self.problems

    @property
    def flops_per_update(self) -> int:
        """Floating-point operations of one update, recomputation included; two for a multiplication and addition."""
        return self.prediction.flops * self.spec.config.training.gradient_accumulation_steps

    @property
    def needed(self) -> int:
        """Bytes that a device must have: those of the process, and no less than the error of the prediction asks."""
        return needed(self.spec, self.prediction)

    def require_fit(self) -> Verdict:
        """Raises DoesNotFit where the run cannot be done on this machine."""
        if not self.spec.device.present:
            here = find_device(self.spec.config.hardware.model_copy(update={"device": "cpu"}))
            raise DoesNotFit(
                f"this run needs a CUDA GPU with {self.prediction.process / GIB:.1f} GiB of memory; "
                f"this machine has none ({here.name}, {here.memory_bytes / GIB:.0f} GiB)",
                "see what it takes on a card with `finetune preflight CONFIG --gpu 24GiB`; "
                "what trains here, on the CPU, is `finetune train configs/quickstart.yaml`",
            )
        if self.problems:
            raise DoesNotFit("\n".join(self.problems), "; ".join(self.advice))
        return self

    def to_json(self, *, timeline: bool = False) -> dict[str, Any]:
        """The object that `finetune preflight --json` prints; preflight.json holds the `timeline` too."""
        prediction, parameters = self.prediction, self.spec.parameters
        instants = {"timeline": [instant.to_json() for instant in prediction.timeline]} if timeline else {}
        return {
            "fits": self.fits,
            "device": self.spec.device.name,
            "batch": {"rows": self.batch.rows, "tokens": self.batch.tokens, "packed": self.batch.packed},
            "parameters": {
                "total": parameters.total, "trainable": parameters.trainable, "quantized": parameters.quantized,
            },
            "memory": {
                "allocated_bytes": prediction.allocated,
                "reserved_bytes": prediction.reserved,
                "process_bytes": prediction.process,
                "device_bytes": self.spec.device.memory_bytes,
                "needed_bytes": self.needed,
                "peak_phase": prediction.phase,
                "peak_operation": prediction.operation,
                "largest_errors": ERRORS,
                "breakdown_bytes": prediction.breakdown,
                **instants,
            },
            "disk": self.disk.to_json(),
            "compute": {
                "flops_per_micro_step": prediction.flops, "decoding_flops_per_micro_step": prediction.decoding_flops,
            },
            "time": self.duration.to_json(),
            "problems": self.problems,
            "advice": self.advice,
            "changes": [advice.to_json() for advice in self.changes],
        }  # fmt: skip


def preflight(spec: RunSpec, *, batch: Batch | None = None, examples: int | None = None) -> Verdict:
    """Predicts the run and compares with its device, without touching either.

    `batch` is the largest that the data holds, where that is known; `examples` the number of training rows, packs or
    prompts, from which the number of updates and the time follow.
    """
    batch = batch or worst_batch(spec)
    prediction, training = predict(spec, batch), spec.config.training
    if training.online and examples is not None:
        examples *= spec.config.rollout.num_generations  # an update's size is in completions
    updates = count_updates(training, examples)
    total = updates.total if updates else None
    disk = disk_needs(spec, updates=total)
    flops = (prediction.flops - prediction.decoding_flops) * training.gradient_accumulation_steps
    duration = expected_time(
        spec.device, flops, total, dtype=spec.compute_dtype, tokens=batch.rows * batch.tokens,
        sampled=sampled_bytes(spec, batch) if training.online else None,
    )  # fmt: skip
    memory, card = _lacks_memory(spec, prediction), _needs_card(spec)
    changes = advise(spec, _allowed(spec)) if memory else []
    advice = [change.text for change in changes]
    if memory and not changes:
        advice.append(
            f"no change makes it fit: take a smaller model or a larger card{shared_out(spec, _allowed(spec))}"
        )
    advice += card.values()
    if disk.problems():
        advice.append("free disk space, or set another output_dir")
    problems = [*memory, *card, *disk.problems()]
    return Verdict(spec, prediction, batch, disk, duration, updates, problems, advice, changes)


def relief(verdict: Verdict, share: float = 0.1) -> list[str]:
    """Advice for a run that was to fit and does not: what takes that share less than it was predicted to."""
    found = [change.text for change in advise(verdict.spec, int((1 - share) * verdict.prediction.process))]
    return found or [f"no change takes {share:.0%} less: take a smaller model or a larger card"]


def solve(spec: RunSpec, what: str) -> int:
    """The largest sequence length or micro batch with which a run fits its device.

    Raises ConfigError for anything else to solve for, and DoesNotFit where the smallest does not fit.
    """
    if what not in KEYS:
        raise ConfigError(f"--max: {what!r} cannot be solved for", f"--max takes {' or '.join(KEYS)}")
    found = largest(Prices(spec), KEYS[what], _allowed(spec))
    if found is None:
        raise DoesNotFit(
            f"this run does not fit on {spec.device.name} whatever the {what}",
            "see what takes the memory, and what helps, with `finetune preflight CONFIG`",
        )
    if what == "micro_batch_size" and spec.config.training.online:
        return next(rows for rows in range(found, 0, -1) if _fills_groups(spec, rows))
    return found


def _fills_groups(spec: RunSpec, rows: int) -> bool:
    """Whether micro batches of `rows` make an effective batch of whole groups of completions."""
    training = changed(spec.config, {KEYS["micro_batch_size"]: rows}).training
    return training.effective_batch_size % spec.config.rollout.num_generations == 0


def larger_micro_batch(spec: RunSpec) -> tuple[int, int] | None:
    """A larger micro batch that fits and leaves the effective batch as it is: its rows, and the bytes of the process;
    None where the next one does not fit. Each step is at least a doubling, and two passes are left."""
    prices, found = Prices(spec), None
    rows, size = spec.config.training.micro_batch_size, spec.config.training.effective_batch_size
    while (rows := next((r for r in range(2 * rows, size // 2 + 1) if size % r == 0), 0)) > 0:
        process = prices({"training.micro_batch_size": rows}).process
        if process > _allowed(spec):
            break
        found = rows, process
    return found


def priced(spec: RunSpec, changes: Changes) -> int:
    """Bytes of the process of a run with `section.key` set to other values."""
    return Prices(spec)(changes).process


def needed(spec: RunSpec, prediction: Prediction) -> int:
    """Bytes that a device must have for a prediction to fit it."""
    if spec.device.kind == "cpu":
        return prediction.process
    return max(prediction.process, math.ceil(prediction.allocated * (1 + MARGIN)) + context_bytes(spec.device))


def _allowed(spec: RunSpec) -> int:
    """Bytes that a priced change may take: so that what it is priced at, from shallow traces, holds in full."""
    return int(spec.device.memory_bytes * (1 - MARGIN))


def _lacks_memory(spec: RunSpec, prediction: Prediction) -> list[str]:
    need, has = needed(spec, prediction), spec.device.memory_bytes
    if need <= has:
        return []
    return [f"this run needs {need / GIB:.1f} GiB, but {spec.device.name} has {has / GIB:.1f} GiB"]


def _needs_card(spec: RunSpec) -> dict[str, str]:
    """What a CPU cannot do, and for each what to do."""
    device, training = spec.device, spec.config.training
    if device.kind == "cuda":
        return {}
    found = {}
    if training.optimizer.startswith("paged"):
        fault = f"training.optimizer={training.optimizer} pages between card and host, but this runs on {device.name}"
        found[fault] = "set training.optimizer=adamw_torch"
    if training.activation_offloading:
        fault = f"training.activation_offloading moves activations off a card, but this runs on {device.name}"
        found[fault] = "set training.activation_offloading=false"
    return found
