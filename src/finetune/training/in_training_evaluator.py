"""Evaluation during the training, for callbacks; the training itself is not changed by it.

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
    """Runs those of the run's `evaluators` that are marked `during_training`, and embeds items of the data set.

    A callback gets it by a parameter `evaluator`. With several processes all of them have to call the same methods.
    """

    def __init__(self, evaluators: Mapping[str, Any], runner: EvaluationRunner, dataset: Dataset) -> None:
        self._evaluators, self._runner, self._dataset = in_training(evaluators), runner, dataset

    def scores(self, trainer: Trainer, module: Any, prefix: str) -> dict[str, float]:
        """Return the mean of each metric by the name `prefix` + `EVALUATION/METRIC`, the headline metric first.

        The scores are the same in all processes.

        Raises:
            FinetuneError: there is nothing to evaluate, or an embedding is not finite.
        """
        collectives = Collectives.from_trainer(trainer)
        with without_training(module):
            results = self._runner.evaluate(self._evaluators, collectives, f"{prefix}step {trainer.global_step}")
        means = {
            f"{prefix}{name}/{metric}": value
            for name, result in results.items()
            for metric, value in result.means.items()
        }
        return collectives.broadcast(means)

    def some_items(self, count: int) -> Ints:
        """Return at most `count` items, evenly spaced over all of them and always the same."""
        total = len(self._dataset.items)
        return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))

    def texts(self, items: Ints) -> list[str]:
        """Return items as readable text."""
        return self._dataset.items.take(items)

    def embeddings(self, trainer: Trainer, module: Any, items: Ints) -> NDArray[np.float32]:
        """Return the embeddings `(N, D)` of items, in the first process."""
        collectives = Collectives.from_trainer(trainer)
        with without_training(module):
            return self._runner.embeddings(items, collectives, f"embedding at {trainer.global_step}")


@contextmanager
def without_training(module: Any) -> Iterator[None]:
    """Preserve the state of the training, and count the seconds that are spent without training."""
    start = time.monotonic()
    with preserve_state(module):
        yield
    module.seconds_evaluated += time.monotonic() - start


def in_training(evaluators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluators that are cheap enough to run during the training, by their names."""
    return {name: evaluator for name, evaluator in evaluators.items() if evaluator.during_training}
