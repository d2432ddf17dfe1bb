"""An end of the training after some time: `trainer.max_time`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Timer

from finetune.config.types import seconds_of
from finetune.encoding.collectives import Collectives
from finetune.training.callbacks.order import CallbackOrder, ends_step


class TimeLimit(Timer):
    """Lightning's Timer for `trainer.max_time`, which only stops at the end of an optimizer step; every run has it.

    It comes before the other callbacks, so that the last step is evaluated and saved. The time is that of the
    training, with the evaluations in between; what a resumed run took before counts too.
    """

    place: ClassVar[int] = CallbackOrder.LIMITS

    def __init__(self, max_time: str | Mapping[str, float] | None) -> None:
        seconds = None if max_time is None else seconds_of(max_time)
        super().__init__(None if seconds is None else timedelta(seconds=seconds), verbose=False)
        self.max_time = max_time
        self.is_reached = False

    @property
    def ended_by(self) -> str | None:
        """What ended the training, if this did."""
        return f"trainer.max_time={_shown(self.max_time)}" if self.is_reached else None

    def seconds_left(self) -> float | None:
        """Return the seconds until the training ends; `None` without a limit."""
        return None if self._duration is None else max(0.0, self._duration - self.time_elapsed())

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, _outputs: Any, _batch: Any, batch_idx: int
    ) -> None:
        """Stop if the time is over; never between batches whose gradients are accumulated."""
        if self._duration is not None and ends_step(trainer, batch_idx):
            self._check_time_remaining(trainer)

    def _check_time_remaining(self, trainer: Trainer) -> None:
        assert self._duration is not None
        # Clocks differ between processes, and all of them have to stop at the same step.
        if Collectives.of(trainer).broadcast(self.time_elapsed() >= self._duration):
            self.is_reached = trainer.should_stop = True


def time_limit(trainer: Trainer) -> TimeLimit | None:
    """Return the time limit of a run."""
    return next((each for each in trainer.callbacks if isinstance(each, TimeLimit)), None)  # type: ignore[attr-defined]


def _shown(max_time: str | Mapping[str, float] | None) -> str:
    if max_time is None or isinstance(max_time, str):
        return str(max_time)
    return "{" + ", ".join(f"{unit}: {count:g}" for unit, count in max_time.items()) + "}"
