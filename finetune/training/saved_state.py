"""What of a trainer a checkpoint holds: everything that decides how the run goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers.trainer_callback import ExportableState

from finetune.errors import RunDirError
from finetune.spec.adapter_files import adapter_files, load_adapter
from finetune.training.randomness import begin_random, random_state, set_random_state
from finetune.training.state_tree import load_tree, tree_files

if TYPE_CHECKING:
    from finetune.training.watched import Watched

NAME = "training_state"
SUMS = ("_total_loss_scalar", "_globalstep_last_logged")
"""What transformers keeps of the losses since the last line of the log, besides their sum."""


def state_files(trainer: Watched) -> dict[str, bytes]:
    """A checkpoint's files: the adapter as PEFT saves it, transformers' own account of the run, and the state of
    optimiser, schedule, scaler, random numbers (those of other processes too) and of the log's open line."""
    _update_callbacks(trainer)
    scaler = trainer.accelerator.scaler
    tree = {
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": random_state(trainer.args.device),
        "open_line": _open_line(trainer),
    }
    if trainer.random_beside:
        tree["random_beside"] = trainer.random_beside
    account = json.dumps(dataclasses.asdict(trainer.state), indent=2, sort_keys=True) + "\n"
    return {**adapter_files(trainer.model), **tree_files(NAME, tree), "trainer_state.json": account.encode()}


class SavedState:
    """A checkpoint that was opened; each part goes to where transformers asks for it."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises RunDirError for one that cannot be read."""
        self.path = checkpoint
        try:
            self._tree = load_tree(checkpoint, NAME)
            self._parts = {name: self._tree[name] for name in ("optimizer", "scheduler", "scaler", "random")}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self._unusable(error) from None

    def restore_adapter(self, trainer: Watched) -> None:
        """Raises RunDirError where it is not this run's adapter."""
        try:
            load_adapter(trainer.model, self.path)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self._unusable(error) from None

    def restore_optimizer(self, trainer: Watched) -> None:
        """Raises RunDirError where the state is of another optimiser or adapter."""
        try:
            trainer.optimizer.load_state_dict(self._parts["optimizer"])
            trainer.lr_scheduler.load_state_dict(self._parts["scheduler"])
            if trainer.accelerator.scaler is not None:
                trainer.accelerator.scaler.load_state_dict(self._parts["scaler"])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise self._unusable(error) from None
        _page(trainer.optimizer.optimizer)

    def restore_random(self, trainer: Watched) -> None:
        """Random numbers of Python, numpy, torch and the card. A process that the checkpoint does not know begins with
        its own; those of one that is no more are left."""
        known = [self._parts["random"], *self._tree.get("random_beside", [])]
        rank = trainer.processes.rank
        if rank < len(known):
            set_random_state(known[rank], trainer.args.device)
        else:
            begin_random(trainer.args.seed, rank, trainer.state.global_step)

    def restore_open_line(self, trainer: Watched) -> None:
        """The losses and metrics since the last line of the log."""
        line = self._tree["open_line"]
        trainer._tr_loss = line["loss"].to(trainer.args.device)
        for name in SUMS:
            setattr(trainer, name, line[name])
        for mode, found in line["metrics"].items():
            trainer._metrics[mode].clear()
            trainer._metrics[mode].update(found)

    def _unusable(self, error: Exception) -> RunDirError:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return RunDirError(
            f"{self.path}: the run cannot go on from it ({first})",
            "remove that checkpoint and resume from the one before, or train anew in another output_dir",
        )


def _update_callbacks(trainer: Watched) -> None:
    """Has callbacks with a state of their own enter it into the trainer's."""
    for callback in (*trainer.callback_handler.callbacks, trainer.control):
        if isinstance(callback, ExportableState):
            trainer.state.stateful_callbacks[type(callback).__name__] = callback.state()


def _open_line(trainer: Watched) -> dict[str, Any]:
    metrics = {mode: dict(found) for mode, found in trainer._metrics.items()}
    return {"loss": trainer._tr_loss, "metrics": metrics, **{name: getattr(trainer, name) for name in SUMS}}


def _page(optimizer: torch.optim.Optimizer) -> None:
    """bitsandbytes loads paged state as plain tensors, which then cannot leave a full card: moved into paged ones,
    where it would have made such."""
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            if name in state and parameter.device.type == "cuda":
                paged = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
                state[name] = paged.copy_(state[name])
