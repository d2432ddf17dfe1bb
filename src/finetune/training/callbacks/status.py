"""The run's status while it trains: how far it is, and how long it will take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from finetune.runs.directory import RunDirectory
from finetune.training.callbacks.time_left import TimeLeft

_SECONDS_BETWEEN = 5.0


class StatusWriter(Callback):
    """Writes step and seconds left to `status.json` every few seconds; every run has it."""

    def __init__(self, directory: Path) -> None:
        self._run = RunDirectory(directory)
        self._left: TimeLeft | None = None
        self._written = 0.0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start to measure the pace; what ends the process from here on ends it in training."""
        self._left, self._written = TimeLeft(trainer, module), 0.0
        if trainer.is_global_zero:
            self._run.write_status("running", stage="training")

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Note that all steps are made."""
        if trainer.is_global_zero:
            self._run.write_status("running", step=trainer.global_step, stage="trained")

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Write if it is time."""
        now, step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and now - self._written >= _SECONDS_BETWEEN:
            self._written = now
            assert self._left is not None
            self._run.write_status("running", step=step, eta_seconds=round(self._left.seconds()))
