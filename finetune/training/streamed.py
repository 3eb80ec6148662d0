"""Training on a stream of rows: its batches, and its place in every checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from finetune.data.streaming import Stream
    from finetune.training.watched import Watched


class Streamed(TrainerCallback, ExportableState):
    """Goes on with a stream where a checkpoint says, and has `epoch` count its passes: transformers counts the run as
    one, since it does not know how long a pass is."""

    def __init__(self, trainer: Watched, stream: Stream) -> None:
        self.trainer, self.stream = trainer, stream

    def state(self) -> dict[str, Any]:
        """What transformers writes into a checkpoint's trainer_state.json."""
        return {"args": {}, "attributes": self.stream.state()}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Called before the first batch is asked for."""
        self.stream.restore(state.stateful_callbacks[type(self).__name__]["attributes"])

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Called after every update, before anything is logged or saved."""
        state.epoch = self.stream.passes

    def batches(self) -> Iterator[Any]:
        """Micro batches without an end. Nothing is read ahead: the stream is where the run is."""
        rows = iter(self.stream)
        while True:
            yield self.trainer.batch_of(list(islice(rows, self.trainer.rows_at_once)))
