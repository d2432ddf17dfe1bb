"""Stops a training between two steps on a signal."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune import signals
from finetune.console import say
from finetune.encoding.collectives import Collectives
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import current_job_id
from finetune.training.callbacks.checkpoint import Checkpoint
from finetune.training.callbacks.order import CallbackOrder, ends_step, stops_here
from finetune.training.callbacks.time_limit import time_limit


class StopOnSignal(Callback):
    """Ends the current step, saves, and stops on Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C or SIGTERM stops at once.

    Nothing is saved in the signal handler itself: it may interrupt anything, including another save.
    """

    order: ClassVar[int] = CallbackOrder.STOPS

    def __init__(self, directory: Path) -> None:
        self.stopped_by: str | None = None
        self._saved = RunDirectory(directory).saved
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Install the signal handlers."""
        # SIGINT even if it is ignored: a script starts background jobs that way, and `kill -INT` is meant for this run.
        self._previous = signals.install(signals.ALL, self._handle, although_ignored=[signal.SIGINT])

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Save and stop if any process received a signal; save too if the time is over, to resume from there."""
        if not ends_step(trainer, batch_idx):
            return  # a checkpoint does not contain accumulated gradients
        has_signal = self._any_signal(trainer)
        stops_anyway, limit = stops_here(trainer), time_limit(trainer)
        if has_signal:
            self.stopped_by = self.stopped_by or "a signal to another process"
            _stop_at_once(trainer)
        is_saved = stops_anyway and bool(_checkpoints(trainer))
        is_over = stops_anyway and limit is not None and limit.is_reached
        if (has_signal or is_over) and not is_saved:
            trainer.save_checkpoint(self._saved.path(trainer.global_step), weights_only=False)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore()

    def _any_signal(self, trainer: Trainer) -> bool:
        """Return whether any process received a signal; tell `Checkpoint` whether it is time to save in any process.

        Both in one reduction, since every step waits for it.
        """
        checkpoints = _checkpoints(trainer)
        flags = [bool(self.stopped_by)]
        flags += [checkpoint.is_time() for checkpoint in checkpoints]
        has_signal, *is_time = Collectives.from_trainer(trainer).all_reduce_any(flags)
        for checkpoint, is_time_in_any in zip(checkpoints, is_time, strict=True):
            checkpoint.is_time_in_any = is_time_in_any
        return has_signal

    def _handle(self, number: int, _: FrameType | None) -> None:
        if signals.is_repeat(number):
            return
        if self.stopped_by and current_job_id() is not None:
            return  # a cluster sends more than one signal, and kills what takes too long itself
        if self.stopped_by:
            raise KeyboardInterrupt
        self.stopped_by = signals.display_name(number)
        at_once = "; Ctrl-C once more stops at once" if current_job_id() is None else ""
        say(f"{self.stopped_by}: stopping after this step{at_once}.")

    def _restore(self) -> None:
        signals.restore(self._previous)
        self._previous = {}


def _checkpoints(trainer: Trainer) -> list[Checkpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Checkpoint)]  # type: ignore[attr-defined]


def _stop_at_once(trainer: Trainer) -> None:
    """Stop after this step, regardless of `min_steps` and `min_epochs`, which are for a stop by a callback."""
    trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
    trainer.should_stop = True
