"""The progress bar of a training."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune.console import Bar
from finetune.data.batching.batch import Batch
from finetune.training.callbacks.status import TimeLeft

_SECONDS_BETWEEN_UPDATES = 0.25


class Progress(Callback):
    """Shows loss, items per second and the time left until the run ends, including the last evaluation."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._time_left: TimeLeft | None = None
        # Time and items so far, after each of the last steps: the first steps of a run are slow, and not typical.
        self._recent: deque[tuple[float, int]] = deque(maxlen=20)
        self._items = 0
        self._updated_at = 0.0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Open the bar at the current step."""
        self._time_left = TimeLeft(trainer, module)
        self._bar = Bar("training", module.total_steps, "steps")
        self._bar.start_at(trainer.global_step)
        self._bar.__enter__()

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, batch: Batch, _: int) -> None:
        """Show the step that just ended."""
        assert self._bar is not None
        assert self._time_left is not None
        self._items += len(batch.items_N)
        now = time.monotonic()
        self._recent.append((now, self._items))
        step = trainer.global_step
        # Not more often: reading the loss waits for the device.
        if now - self._updated_at < _SECONDS_BETWEEN_UPDATES and step < module.total_steps:
            return
        self._updated_at = now
        text = f"loss {_format_loss(float(module.last_loss))} · {self._items_per_second():,.0f} items/s"
        self._bar.update(step, text, left=self._time_left.seconds())

    def _items_per_second(self) -> float:
        (first_time, first_items), (last_time, last_items) = self._recent[0], self._recent[-1]
        if last_time <= first_time:
            return 0.0
        return (last_items - first_items) / (last_time - first_time)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that it does not overwrite the error."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _format_loss(loss: float) -> str:
    """Return a loss with three digits; very large and very small ones in scientific notation."""
    if loss == 0 or 0.001 <= abs(loss) < 1000:
        return f"{loss:.3f}"
    return f"{loss:.3g}"
