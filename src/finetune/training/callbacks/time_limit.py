"""An end of the training before its last step: after some time (`trainer.max_time`), or by another callback."""

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
    """Lightning's Timer for `trainer.max_time`, which stops only at the end of an optimizer step; every run has it.

    It comes before the other callbacks, so that the last step is evaluated and saved. The time includes evaluations
    during the training, and, for a resumed run, the time before the resume.
    """

    order: ClassVar[int] = CallbackOrder.LIMITS

    def __init__(self, max_time: str | Mapping[str, float] | None) -> None:
        duration = None
        if max_time is not None:
            seconds = seconds_of(max_time)
            duration = timedelta(seconds=seconds) if seconds is not None else None
        super().__init__(duration, verbose=False)
        self.max_time = max_time
        self.is_reached = False

    @property
    def ended_by(self) -> str | None:
        """What ended the training, if this callback did."""
        return f"trainer.max_time={_as_override(self.max_time)}" if self.is_reached else None

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
        # The clocks of processes differ, and all processes have to stop at the same step.
        is_over = self.time_elapsed() >= self._duration
        if Collectives.from_trainer(trainer).broadcast(is_over):
            self.is_reached = trainer.should_stop = True


def time_limit(trainer: Trainer) -> TimeLimit | None:
    """Return the time limit of a run."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, TimeLimit):
            return callback
    return None


def _as_override(max_time: str | Mapping[str, float] | None) -> str:
    if max_time is None or isinstance(max_time, str):
        return str(max_time)
    return "{" + ", ".join(f"{unit}: {count:g}" for unit, count in max_time.items()) + "}"


def early_end(trainer: Trainer, module: Any) -> str | None:
    """Return at which step the training ended and why, as a sentence; `None` if it did all of its steps.

    A callback that stops the training has a property `ended_by`, None if it did not.
    """
    if trainer.global_step >= module.total_steps or not trainer.should_stop:
        return None
    cause = "a callback that stopped it"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        ended_by = getattr(callback, "ended_by", None)
        if ended_by:
            cause = ended_by
            break
    return f"Training ended at step {trainer.global_step} of {module.total_steps} because of {cause}."


def is_out_of_time(trainer: Trainer, module: Any) -> bool:
    """Whether `trainer.max_time` ended the training before its last step."""
    limit = time_limit(trainer)
    return limit is not None and limit.is_reached and trainer.global_step < module.total_steps
