"""Stop a training between two steps when a person or the system asks for it."""

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
from finetune.runs.jobs import job_here
from finetune.training.callbacks.checkpoint import Checkpoint
from finetune.training.callbacks.order import CallbackOrder, ends_step, stops_here
from finetune.training.callbacks.time_limit import time_limit


class StopOnSignal(Callback):
    """On Ctrl-C, SIGTERM or SIGHUP, end the current step, save, and stop; a second Ctrl-C or SIGTERM stops at once.

    Nothing is saved inside the handler itself: it may interrupt anything, another save included.
    """

    place: ClassVar[int] = CallbackOrder.STOPS

    def __init__(self, directory: Path) -> None:
        self.stopped_by: str | None = None
        self._saved = RunDirectory(directory).saved
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start to listen."""
        # A script starts its background jobs with Ctrl-C ignored, and `kill -INT` is meant for this process alone.
        self._previous = signals.install(signals.ALL, self._ask, although_ignored=[signal.SIGINT])

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Save and stop if any process of the run was asked to; save too if the time is over, to resume from there."""
        if not ends_step(trainer, batch_idx):
            return  # gradients that have yet to be used are in no checkpoint
        asked = self._ask_all(trainer)
        stops_anyway, limit = stops_here(trainer), time_limit(trainer)
        if asked:
            self.stopped_by = self.stopped_by or "a signal to another process"
            _stop_at_once(trainer)
        is_saved = stops_anyway and any(isinstance(each, Checkpoint) for each in trainer.callbacks)  # type: ignore[attr-defined]
        is_over = stops_anyway and limit is not None and limit.is_reached
        if (asked or is_over) and not is_saved:
            trainer.save_checkpoint(self._saved.path(trainer.global_step), weights_only=False)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop listening."""
        self._restore()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._restore()

    def _ask_all(self, trainer: Trainer) -> bool:
        """Return whether any process was asked to stop, and let checkpoints know whether it is time in any of them.

        Both in one reduction, since every step waits for it.
        """
        savers = [each for each in trainer.callbacks if isinstance(each, Checkpoint)]  # type: ignore[attr-defined]
        asked, *is_time = Collectives.of(trainer).any_of([bool(self.stopped_by), *(each.is_time() for each in savers)])
        for saver, was_time in zip(savers, is_time, strict=True):
            saver.was_time = was_time
        return asked

    def _ask(self, number: int, _: FrameType | None) -> None:
        if signals.is_repeat(number):
            return
        if self.stopped_by and job_here() is not None:
            return  # a cluster says it more than once, and ends what takes too long itself
        if self.stopped_by:
            raise KeyboardInterrupt
        self.stopped_by = signals.display_name(number)
        at_once = "; Ctrl-C once more stops at once" if job_here() is None else ""
        say(f"{self.stopped_by}: stopping after this step{at_once}.")

    def _restore(self) -> None:
        signals.restore(self._previous)
        self._previous = {}


def _stop_at_once(trainer: Trainer) -> None:
    """Stop after this step, whatever `min_steps` and `min_epochs` are: those are for ends that a run decides itself."""
    trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
    trainer.should_stop = True
