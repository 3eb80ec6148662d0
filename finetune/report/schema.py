"""The shapes of `report.json` and `preflight.json`, read back: keys may be absent or null, none of the wrong type."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator


class Part(BaseModel):
    """Base of all parts: null counts as absent, unknown keys are left for other readers."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, tree: Any) -> Any:
        return {key: value for key, value in tree.items() if value is not None} if isinstance(tree, dict) else tree


class Parameters(Part):
    """Counts of weights."""

    total: int | None = None
    trainable: int | None = None
    quantized: int | None = None


class Model(Part):
    """The base model as it was loaded."""

    name_or_path: str | None = None
    parameters: Parameters = Parameters()
    quantization: str | None = None
    dtype: str | None = None
    compute_dtype: str | None = None
    attention: str | None = None


class DataSet(Part):
    """One side of the data, after tokenising."""

    source: str | None = None
    format: str | None = None
    rows: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    longest: int | None = None
    truncated: int | None = None
    dropped: int | None = None


class Data(Part):
    """What was learned from, and what was held out."""

    train: DataSet | None = None
    eval: DataSet | None = None


class TrainLoss(Part):
    """Training loss of the first and the last step, in nats a token."""

    first: float | None = None
    last: float | None = None


class Noise(Part):
    """Gradient noise scale with its 95 % interval, in rows; an end that is null is unbounded, so is a value."""

    value: float = math.inf
    low: float = 0.0
    high: float = math.inf
    updates: float = 0.0


class Train(Part):
    """What the training loop did; tokens without padding, seconds of the loop alone."""

    seconds: float | None = None
    rows: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    steps: int | None = None
    epochs: float | None = None
    loss: TrainLoss = TrainLoss()
    learning_rate: float | None = None
    micro_batch_size: PositiveInt = 1
    effective_batch_size: PositiveInt | None = None
    noise_scale: Noise | None = None


class EvalLoss(Part):
    """Mean held-out loss in nats a trained token; or another held-out figure, before and after training."""

    before: float | None = None
    after: float | None = None


class Baseline(Part):
    """Variance of one completion's part of the policy gradient, on rollouts before training."""

    completions: int | None = None
    without: float | None = None
    leave_one_out: float | None = None
    optimal: float | None = None


class Memory(Part):
    """Peak memory of the run, in bytes."""

    predicted_bytes: int | None = None
    measured_bytes: int | None = None
    process_bytes: int | None = None
    device: str | None = None
    measured_as: str | None = None


class Rehearsal(Part):
    """What the largest batches and one checkpoint took before training; `tokens` with padding."""

    train_peak_bytes: int | None = None
    eval_peak_bytes: int | None = None
    predicted_bytes: int | None = None
    seconds_per_micro_step: float | None = None
    checkpoint_bytes: int | None = None
    tokens: int | None = None


class Sample(Part):
    """One held-out question, the answer in the data, and the model's answers."""

    prompt: str
    reference: str | None = None
    before: str | None = None
    after: str | None = None


class Report(Part):
    """All of `report.json`."""

    finetune_version: str | None = None
    finished_at: datetime | None = None
    status: str | None = None
    model: Model = Model()
    adapter: str | None = None
    lora: dict[str, Any] = {}
    data: Data = Data()
    train: Train = Train()
    tokens_per_second: float | None = None
    eval_loss: EvalLoss = EvalLoss()
    held_out: dict[str, EvalLoss] = {}
    baseline: Baseline = Baseline()
    memory: Memory = Memory()
    rehearsal: Rehearsal = Rehearsal()
    samples: list[Sample] = []
    environment: dict[str, Any] = {}
    notes: list[str] = []


class Batch(Part):
    """The micro batch that was priced."""

    rows: int | None = None
    tokens: int | None = None
    packed: bool = False


class Instant(Part):
    """One moment of an update: what is alive, by cause, and what the allocator has reserved."""

    phase: str
    reserved_bytes: NonNegativeInt
    bytes: dict[str, NonNegativeInt]


class PredictedMemory(Part):
    """Bytes at the worst instant, and the instants of the last update in order."""

    allocated_bytes: NonNegativeInt | None = None
    process_bytes: NonNegativeInt | None = None
    device_bytes: NonNegativeInt | None = None
    peak_phase: str = "unknown"
    breakdown_bytes: dict[str, NonNegativeInt] = {}
    timeline: list[Instant] = []


class Preflight(Part):
    """What `preflight.json` says of memory."""

    batch: Batch = Batch()
    memory: PredictedMemory = PredictedMemory()
