"""The run's status while it trains: how far it is, and how long it will take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from finetune.runs.directory import RunDirectory

_SECONDS_BETWEEN = 5.0


class KeepStatus(Callback):
    """Writes step and seconds left to `status.json` every few seconds; every run has it."""

    def __init__(self, directory: Path) -> None:
        self._run = RunDirectory(directory)
        self._first, self._started, self._written = 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Measure the pace from here on; by a clock that nobody sets."""
        self._first, self._started, self._written = trainer.global_step, time.monotonic(), 0.0

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Write if it is time."""
        now, step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and now - self._written >= _SECONDS_BETWEEN:
            self._written = now
            pace = (now - self._started) / max(1, step - self._first)
            self._run.write_status("running", step=step, eta_seconds=round(pace * (module.total_steps - step)))
