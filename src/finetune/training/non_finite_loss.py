"""Detects a loss that is not finite, and its batch, without waiting for the device at every step."""

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
    """The loss of a batch is NaN or infinite; `loader` is the state of the loader after that batch."""

    def __init__(self, step: int, loss: float, loader: dict[str, int]) -> None:
        self.step, self.loss, self.loader = step, loss, loader
        super().__init__(
            f"The run diverged: the loss is {loss} at step {step}.",
            "Try a smaller optimizer.lr, a longer scheduler.warmup, or trainer.precision=32-true; "
            "the batch is written down in diverged.json.",
        )


class LossMonitor:
    """The losses since the last check; they stay on the device, since reading one waits for a GPU."""

    def __init__(self) -> None:
        self._unchecked: list[tuple[int, dict[str, int], Tensor]] = []
        self._last = math.nan

    def add(self, step: int, loader: dict[str, int], loss: Tensor) -> None:
        """Add the loss of a batch, a scalar on its device, with the state of the loader after the batch."""
        self._unchecked.append((step, loader, loss))

    def check(self, mean: Callable[[Tensor], Tensor]) -> float:
        """Return the last loss; `mean` averages the losses over all processes, so that all come to the same result.

        Raises:
            NonFiniteLossError: for the first batch whose loss is not finite.
        """
        if self._unchecked:
            losses = mean(torch.stack([loss for _, _, loss in self._unchecked])).tolist()
            for (step, loader, _), loss in zip(self._unchecked, losses, strict=True):
                if not math.isfinite(loss):
                    raise NonFiniteLossError(step, loss, loader)
            self._unchecked, self._last = [], losses[-1]
        return self._last


def batch_facts(error: NonFiniteLossError, batches: Batches, dataset: Dataset) -> dict[str, Any]:
    """Return the batch of a non-finite loss as plain data: its rows, with item numbers and texts."""
    epoch, position = error.loader["epoch"], error.loader["position"] - 1
    rows, _ = batches.epochs.batch(epoch, position)
    items_of_rows = dataset.train.take(rows).columns()
    return {
        "step": error.step,
        "loss": str(error.loss),
        "epoch": epoch,
        "batch": position,
        "rows": [
            {"row": int(row), "anchor": _with_texts(dataset, items[:1]), "others": _with_texts(dataset, items[1:])}
            for row, items in zip(rows, items_of_rows, strict=True)
        ],
    }


def _with_texts(dataset: Dataset, items: Ints) -> list[dict[str, Any]]:
    present = items[items != ABSENT]
    texts = dataset.items.take(present)
    return [{"item": int(item), "text": text} for item, text in zip(present, texts, strict=True)]
