"""Progress of a training in the terminal."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune.console import Bar
from finetune.data.batching.batch import Batch
from finetune.training.callbacks.time_left import TimeLeft

_SECONDS_BETWEEN_DRAWINGS = 0.25


class Progress(Callback):
    """Shows loss, items per second and the time left until the run ends, with the evaluation after the training."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._left: TimeLeft | None = None
        # The pace of the last few steps; the first of a run is slow and would spoil a mean over all.
        self._recent: deque[tuple[float, int]] = deque(maxlen=20)
        self._items = 0
        self._drawn = 0.0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Open the bar where the run stands."""
        self._left = TimeLeft(trainer, module)
        self._bar = Bar("training", module.total_steps, "steps")
        self._bar.start_at(trainer.global_step)
        self._bar.__enter__()

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, batch: Batch, _: int) -> None:
        """Show the step that just ended."""
        assert self._bar is not None
        assert self._left is not None
        self._items += len(batch.items_N)
        now = time.monotonic()
        self._recent.append((now, self._items))
        step = trainer.global_step
        # Reading the loss waits for the device, so it is read no more often than an eye can follow.
        if now - self._drawn < _SECONDS_BETWEEN_DRAWINGS and step < module.total_steps:
            return
        self._drawn = now
        shown = f"loss {_short(float(module.last_loss))} · {self._items_per_second():,.0f} items/s"
        self._bar.update(step, shown, left=self._left.seconds())

    def _items_per_second(self) -> float:
        (t0, n0), (t1, n1) = self._recent[0], self._recent[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error is not drawn over."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _short(loss: float) -> str:
    # A loss that diverges has forty digits, and a very small one is not 0.000.
    return f"{loss:.3f}" if loss == 0 or 0.001 <= abs(loss) < 1000 else f"{loss:.3g}"
