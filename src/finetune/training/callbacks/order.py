"""In which order callbacks see the end of a step, whatever the order of the config."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from pytorch_lightning import Callback, Trainer


class Place(IntEnum):
    """Who changes something comes before who measures it, who decides by it, and who saves it all."""

    CHANGES = 1
    MEASURES = 2
    DECIDES = 3
    SAVES = 4
    STOPS = 5


def ordered(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return the callbacks in the order of their `place`; those without one, a user's own among them, come first."""
    return sorted(callbacks, key=lambda callback: getattr(callback, "place", 0))


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether an optimizer step ended with this batch, and not only a part of one that accumulates."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def every(trainer: Trainer, module: Any, batch_idx: int, steps: int) -> bool:
    """Whether this batch ended every `steps`-th optimizer step, or the last one of the run."""
    step = trainer.global_step
    return ends_step(trainer, batch_idx) and (step % steps == 0 or step >= module.total_steps)


def finish(trainer: Trainer, module: Any) -> None:
    """Let the callbacks make the model in the end: the best one, the average, something between, in this order."""
    for callback in reversed(trainer.callbacks):  # type: ignore[attr-defined]
        if hasattr(callback, "finish"):
            callback.finish(trainer, module)
