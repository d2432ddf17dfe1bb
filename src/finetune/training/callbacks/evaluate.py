"""Evaluations during the training, and the metric by which other callbacks decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pytorch_lightning import Callback, Trainer

from finetune.config.types import PositiveInt
from finetune.errors import CheckFailed, Problem
from finetune.training.callbacks.average import averages
from finetune.training.callbacks.order import CallbackOrder, every
from finetune.training.in_training_evaluator import InTrainingEvaluator


class Evaluate(Callback):
    """Evaluates the model every `every_n_steps` optimizer steps and after the last, without an effect on the training.

    `scores` are those of the last evaluation, by the names `EVALUATION/METRIC`, the same in all processes; `is_fresh`
    is True if the evaluation was after the current batch. `evaluator` is provided by the run.
    """

    order: ClassVar[int] = CallbackOrder.MEASURES

    def __init__(self, evaluator: InTrainingEvaluator, every_n_steps: PositiveInt = 100) -> None:
        self.every_n_steps = every_n_steps
        self.scores: dict[str, float] = {}
        self.is_fresh = False
        self._evaluator = evaluator

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Evaluate if it is due."""
        # Reset after every batch: with accumulation several batches belong to one step.
        self.is_fresh = every(trainer, module, batch_idx, self.every_n_steps)
        if not self.is_fresh:
            return
        module.check_loss()  # a loss that is not finite explains more than embeddings that are not
        self.scores = self._scores(trainer, module)
        for logger in trainer.loggers:
            logger.log_metrics(self.scores, step=trainer.global_step - 1)

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Store the scores of the model in its checkpoint."""
        if self.is_fresh:
            checkpoint.setdefault("metrics", {}).update(self.scores)

    def _scores(self, trainer: Trainer, module: Any) -> dict[str, float]:
        """Return the scores of the model and of averages of its weights; first those of the model to be saved."""
        scores = self._evaluator.scores(trainer, module, "")
        for average in averages(trainer):
            if not average.evaluate:
                continue
            with average.in_place(module):
                of_average = self._evaluator.scores(trainer, module, f"{average.name}/")
            # The other callbacks decide by the first score.
            scores = {**of_average, **scores} if average.save else {**scores, **of_average}
        return scores


class MonitoredMetric:
    """A metric of the evaluations by which a callback decides.

    `metric` is its name, `auto` for the first one; `mode` is `max` if a higher value is better, or `min`. `key` is the
    callback in the config.
    """

    def __init__(self, metric: str, mode: str, key: str) -> None:
        self.metric, self.mode, self.key = metric, mode, key

    def now(self, trainer: Trainer) -> float | None:
        """Return the value at the current batch, negated for `min`; `None` if there was no evaluation.

        Raises:
            CheckFailed: there is no metric of that name.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Evaluate):
                return self.value(callback.scores) if callback.is_fresh else None
        return None

    def value(self, scores: Mapping[str, float]) -> float:
        """Return the value among the scores of an evaluation, negated for `min`, so that higher is better.

        Raises:
            CheckFailed: there is no metric of that name.
        """
        name = self.name_in(scores)
        if name not in scores:
            what = f"the evaluations of this run have no '{name}'."
            raise CheckFailed([Problem(f"{self.key}.metric", what, f"They have: {', '.join(scores)}.")])
        return scores[name] if self.mode == "max" else -scores[name]

    def name_in(self, scores: Mapping[str, float]) -> str:
        """Return the name of the metric among the scores of an evaluation."""
        return next(iter(scores)) if self.metric == "auto" else self.metric

    def shown(self, value: float) -> str:
        """Return a result of `value` as text, with its original sign."""
        return f"{value if self.mode == 'max' else -value:.4f}"
