"""How long a run will still take: the steps that are left, and all that comes after them."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Trainer

from finetune.training.callbacks.evaluate import Evaluate
from finetune.training.callbacks.time_limit import time_limit
from finetune.training.callbacks.wise_ft import WiseFT


class TimeLeft:
    """Estimates the seconds until the run ends, from when the training starts.

    A step takes what the steps since then took in the mean, without the evaluations in between. An evaluation takes as
    long as the one before the training did.
    """

    def __init__(self, trainer: Trainer, module: Any) -> None:
        self._trainer, self._module = trainer, module
        self._first, self._started, self._looked = trainer.global_step, time.monotonic(), module.seconds_looked

    def seconds(self) -> float:
        """Return the seconds left after the current step."""
        step, total = self._trainer.global_step, self._module.total_steps
        looked = self._module.seconds_looked - self._looked
        trained = time.monotonic() - self._started - looked
        training = trained / max(1, step - self._first) * (total - step)
        training += evaluations_left(self._trainer, step, total) * self._module.seconds_in_training
        limit = time_limit(self._trainer)
        left = limit.seconds_left() if limit is not None else None
        if left is not None:
            training = min(training, left)
        return float(training) + seconds_after(self._trainer, self._module)


def evaluations_left(trainer: Trainer, step: int, total: int) -> int:
    """Return how often callbacks will still evaluate during the training."""
    count = 0
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluate) and step < total:
            every = callback.every_n_steps
            count += total // every - step // every + int(total % every > 0)
    return count


def seconds_after(trainer: Trainer, module: Any) -> float:
    """Return what the evaluations after the training will take."""
    mixtures = [alpha for each in trainer.callbacks if isinstance(each, WiseFT) for alpha in each.alphas]  # type: ignore[attr-defined]
    return float((1 + len(mixtures)) * module.seconds_of_evaluation)
