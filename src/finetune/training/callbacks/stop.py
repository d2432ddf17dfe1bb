"""Stop a training between two steps when a person or the system asks for it."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune import interrupts
from finetune.console import say
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import job_here
from finetune.training.callbacks.order import Place, ends_step


class StopOnSignal(Callback):
    """On Ctrl-C, SIGTERM or SIGHUP, end the current step, save, and stop; a second Ctrl-C or SIGTERM stops at once.

    Nothing is saved inside the handler itself: it may interrupt anything, another save included.
    """

    place: ClassVar[int] = Place.STOPS

    def __init__(self, directory: Path) -> None:
        self.stopped_by: str | None = None
        self._saved = RunDirectory(directory).saved
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start to listen."""
        # A script starts its background jobs with Ctrl-C ignored, and `kill -INT` is meant for this process alone.
        self._previous = interrupts.listen(interrupts.ALL, self._ask, although_ignored=[signal.SIGINT])

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Save and stop, if somebody asked any process of the run."""
        if not ends_step(trainer, batch_idx):
            return  # gradients that have yet to be used are in no checkpoint
        asked = bool(self.stopped_by)
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked and not trainer.should_stop:
            self.stopped_by = self.stopped_by or "a signal to another process"
            trainer.save_checkpoint(self._saved.path(trainer.global_step), weights_only=False)
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop listening."""
        self._restore()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._restore()

    def _ask(self, number: int, _: FrameType | None) -> None:
        if interrupts.is_repeat(number):
            return
        if self.stopped_by and job_here() is not None:
            return  # a cluster says it more than once, and ends what takes too long itself
        if self.stopped_by:
            raise KeyboardInterrupt
        self.stopped_by = interrupts.called(number)
        at_once = "; Ctrl-C once more stops at once" if job_here() is None else ""
        say(f"{self.stopped_by}: stopping after this step{at_once}.")

    def _restore(self) -> None:
        interrupts.restore(self._previous)
        self._previous = {}
