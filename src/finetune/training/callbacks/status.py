"""The run's status during the training: the current step, and an estimate of the time left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from finetune.runs.directory import RunDirectory
from finetune.training.callbacks.evaluate import Evaluate
from finetune.training.callbacks.time_limit import time_limit
from finetune.training.callbacks.wise_ft import WiseFT

_SECONDS_BETWEEN_WRITES = 5.0


class StatusWriter(Callback):
    """Writes step and seconds left to `status.json` every few seconds; every run has this callback."""

    def __init__(self, directory: Path) -> None:
        self._run = RunDirectory(directory)
        self._time_left: TimeLeft | None = None
        self._written_at = 0.0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start to estimate the time left, and set the stage, which is also that of an error from here on."""
        self._time_left, self._written_at = TimeLeft(trainer, module), 0.0
        if trainer.is_global_zero:
            self._run.write_status("running", stage="training")

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Set the stage to `trained`: all steps are done."""
        if trainer.is_global_zero:
            self._run.write_status("running", step=trainer.global_step, stage="trained")

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Write if it is due."""
        now, step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and now - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self._written_at = now
            assert self._time_left is not None
            self._run.write_status("running", step=step, eta_seconds=round(self._time_left.seconds()))


class TimeLeft:
    """Estimates the seconds until the run ends; created at the start of the training.

    A step is expected to take the mean time of the steps so far, without evaluations. An evaluation is expected to take
    as long as the one before the training.
    """

    def __init__(self, trainer: Trainer, module: Any) -> None:
        self._trainer, self._module = trainer, module
        self._first_step, self._started_at = trainer.global_step, time.monotonic()
        self._evaluated_before = module.seconds_evaluated

    def seconds(self) -> float:
        """Return the seconds left after the current step."""
        step, total = self._trainer.global_step, self._module.total_steps
        evaluated = self._module.seconds_evaluated - self._evaluated_before
        trained = time.monotonic() - self._started_at - evaluated
        training = trained / max(1, step - self._first_step) * (total - step)
        evaluations = _evaluations_left(self._trainer, step, total)
        training += evaluations * self._module.seconds_per_training_evaluation
        limit = time_limit(self._trainer)
        until_limit = limit.seconds_left() if limit is not None else None
        if until_limit is not None:
            training = min(training, until_limit)
        return float(training) + seconds_after_training(self._trainer, self._module)


def _evaluations_left(trainer: Trainer, step: int, total: int) -> int:
    """Return the number of evaluations in the rest of the training."""
    count = 0
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluate) and step < total:
            every = callback.every_n_steps
            is_last_extra = total % every > 0  # the last step is evaluated too
            count += total // every - step // every + int(is_last_extra)
    return count


def seconds_after_training(trainer: Trainer, module: Any) -> float:
    """Return the estimated seconds of the evaluations after the training."""
    evaluations = 1
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WiseFT):
            evaluations += len(callback.alphas)
    return float(evaluations * module.seconds_per_evaluation)
