"""What callbacks look at a model with in the midst of its training.

Shapes: N items, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Trainer

from finetune.data.arrays import Ints
from finetune.data.dataset import Dataset
from finetune.encoding.collectives import Collectives
from finetune.training.evaluation_runner import EvaluationRunner
from finetune.training.preserve_state import preserve_state


class InTrainingEvaluator:
    """Those of the run's `evaluators` that measure during training, and its items, to look at the model with.

    The training is not changed. All processes of a run look together.
    """

    def __init__(self, evaluators: Mapping[str, Any], measure: EvaluationRunner, dataset: Dataset) -> None:
        self._evaluators, self._measure, self._dataset = in_training(evaluators), measure, dataset

    def scores(self, trainer: Trainer, module: Any, prefix: str) -> dict[str, float]:
        """Return the mean of each metric, as `PREFIX` and `EVALUATION/METRIC`, the headline of an evaluation first.

        It is the same in all processes.

        Raises:
            FinetuneError: there is nothing right to be found, or an embedding is no number.
        """
        when, together = f"{prefix}step {trainer.global_step}", Collectives.of(trainer)
        with _looking(module):
            found = self._measure(self._evaluators, together, when)
        means = {
            f"{prefix}{name}/{metric}": value
            for name, result in found.items()
            for metric, value in result.means.items()
        }
        return together.broadcast(means)

    def some_items(self, count: int) -> Ints:
        """Return the numbers of at most `count` items, spread over all of them and always the same."""
        total = len(self._dataset.items)
        return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))

    def texts(self, items: Ints) -> list[str]:
        """Return items as text that a person can read."""
        return self._dataset.items.take(items)

    def embeddings(self, trainer: Trainer, module: Any, items: Ints) -> NDArray[np.float32]:
        """Return the embeddings `(N, D)` of items, in the first process."""
        with _looking(module):
            return self._measure.embeddings(items, Collectives.of(trainer), f"embedding at {trainer.global_step}")


@contextmanager
def _looking(module: Any) -> Iterator[None]:
    start = time.monotonic()
    with preserve_state(module):
        yield
    module.seconds_looked += time.monotonic() - start


def in_training(evaluators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluators that are cheap enough to measure in the midst of a training, by their names."""
    return {name: evaluator for name, evaluator in evaluators.items() if evaluator.during_training}
