"""The order in which callbacks are called at the end of a step, and what they ask about that step."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from pytorch_lightning import Callback, Trainer


class CallbackOrder(IntEnum):
    """Limits come first, then what changes weights, what measures, what decides by that, and what saves."""

    LIMITS = -1
    CHANGES = 1
    MEASURES = 2
    DECIDES = 3
    SAVES = 4
    STOPS = 5


def ordered(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return the callbacks sorted by their `order`, whatever their order in the config; it is 0 if it is missing."""
    return sorted(callbacks, key=lambda callback: getattr(callback, "order", 0))


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether an optimizer step ended with this batch, which may be the last of several that were accumulated."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def stops_here(trainer: Trainer) -> bool:
    """Whether the training was asked to stop and ends with this batch; it does not before `min_steps`/`min_epochs`."""
    loop = trainer.fit_loop
    epochs = trainer.current_epoch + int(trainer.is_last_batch)
    has_minimum = epochs >= (loop.min_epochs or 0) and trainer.global_step >= (loop.min_steps or 0)
    return bool(trainer.should_stop) and has_minimum


def is_last_step(trainer: Trainer, module: Any) -> bool:
    """Whether the training ends with the current step, as planned or because it was asked to stop."""
    return trainer.global_step >= module.total_steps or stops_here(trainer)


def every(trainer: Trainer, module: Any, batch_idx: int, steps: int) -> bool:
    """Whether this batch ended every `steps`-th optimizer step, or the last one of the training."""
    is_due = trainer.global_step % steps == 0 or is_last_step(trainer, module)
    return ends_step(trainer, batch_idx) and is_due


def finish(trainer: Trainer, module: Any) -> None:
    """Let callbacks choose the final weights: the best checkpoint, then the average, then the mixture of weights."""
    for callback in reversed(trainer.callbacks):  # type: ignore[attr-defined]
        if hasattr(callback, "finish"):
            callback.finish(trainer, module)
