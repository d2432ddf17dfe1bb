"""A loss that is no number: which batch it was, found without waiting for the device at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetune.data.arrays import Ints
from finetune.data.batching.batches import Batches
from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT
from finetune.runs.failure_causes import Diverged


class NonFiniteLossError(Diverged):
    """The loss of a batch is no number; `place` is where the batch stands, as `Batches.state_dict` said after it."""

    def __init__(self, step: int, loss: float, place: dict[str, int]) -> None:
        self.step, self.loss, self.place = step, loss, place
        super().__init__(
            f"The run diverged: the loss is {loss} at step {step}.",
            "Try a smaller optimizer.lr, a longer scheduler.warmup, or trainer.precision=32-true; "
            "the batch is written down in diverged.json.",
        )


class Watch:
    """The losses since somebody last looked: on a GPU looking waits for the device, and is done now and then."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, dict[str, int], Tensor]] = []
        self._last = math.nan

    def add(self, step: int, place: dict[str, int], loss: Tensor) -> None:
        """Remember the loss of a batch, a number on its device."""
        self._seen.append((step, place, loss))

    def check(self, mean: Callable[[Tensor], Tensor]) -> float:
        """Return the last loss; `mean` takes that over all processes, so that they all find the same.

        Raises:
            NoNumber: with the first batch whose loss was none.
        """
        if self._seen:
            losses = mean(torch.stack([loss for _, _, loss in self._seen])).tolist()
            for (step, place, _), loss in zip(self._seen, losses, strict=True):
                if not math.isfinite(loss):
                    raise NonFiniteLossError(step, loss, place)
            self._seen, self._last = [], losses[-1]
        return self._last


def described(error: NonFiniteLossError, batches: Batches, dataset: Dataset) -> dict[str, Any]:
    """Return the batch of a loss that is no number in plain words: its rows, with item numbers and texts."""
    epoch, position = error.place["epoch"], error.place["position"] - 1
    rows, _ = batches.epochs.batch(epoch, position)
    relations = dataset.train.take(rows)
    return {
        "step": error.step,
        "loss": str(error.loss),
        "epoch": epoch,
        "batch": position,
        "rows": [
            {"row": int(row), "anchor": _shown(dataset, anchor), "others": _shown(dataset, others)}
            for row, (anchor, others) in zip(
                rows, ((columns[:1], columns[1:]) for columns in relations.columns()), strict=True
            )
        ],
    }


def _shown(dataset: Dataset, items: Ints) -> list[dict[str, Any]]:
    there = items[items != ABSENT]
    return [{"item": int(item), "text": text} for item, text in zip(there, dataset.items.take(there), strict=True)]
