"""The run's evaluations in the midst of its training."""

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
    """Measures the model every `every_n_steps` optimizer steps and after the last.

    `scores` are what was found last, `EVALUATION/METRIC` to its value, the same in all processes; `is_fresh` says that
    it was after this very batch. `gauge` is given by the run. Nothing of the training changes by it.
    """

    place: ClassVar[int] = CallbackOrder.MEASURES

    def __init__(self, gauge: InTrainingEvaluator, every_n_steps: PositiveInt = 100) -> None:
        self.every_n_steps = every_n_steps
        self.scores: dict[str, float] = {}
        self.is_fresh = False
        self._gauge = gauge

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Evaluate if it is time."""
        # With accumulation several batches end within one step.
        self.is_fresh = every(trainer, module, batch_idx, self.every_n_steps)
        if not self.is_fresh:
            return
        module.check_loss()  # embeddings that are no numbers would be the lesser news
        self.scores = self._measure(trainer, module)
        for logger in trainer.loggers:
            logger.log_metrics(self.scores, step=trainer.global_step - 1)

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Note beside a checkpoint what its model was worth."""
        if self.is_fresh:
            checkpoint.setdefault("metrics", {}).update(self.scores)

    def _measure(self, trainer: Trainer, module: Any) -> dict[str, float]:
        found = self._gauge.scores(trainer, module, "")
        for average in averages(trainer):
            if average.evaluate:
                with average.in_place(module):
                    scores = self._gauge.scores(trainer, module, f"{average.name}/")
                # What will be the model in the end comes first: the others decide by the first number.
                found = scores | found if average.save else found | scores
        return found


class MonitoredMetric:
    """One number of the evaluations, by which something is decided.

    `metric` is its name, `auto` for the first there is; `mode` says whether `max` or `min` is best.
    """

    def __init__(self, metric: str, mode: str, key: str) -> None:
        self.metric, self.mode, self.key = metric, mode, key

    def now(self, trainer: Trainer) -> float | None:
        """Return the number of this very step, as one of which more is better; `None` if nothing was evaluated now.

        Raises:
            CheckFailed: there is no number of that name.
        """
        found = next((each for each in trainer.callbacks if isinstance(each, Evaluate)), None)  # type: ignore[attr-defined]
        if found is None or not found.is_fresh:
            return None
        return self.of(found.scores)

    def of(self, scores: Mapping[str, float]) -> float:
        """Return the number among all of an evaluation, as one of which more is better.

        Raises:
            CheckFailed: there is no number of that name.
        """
        name = self.name_in(scores)
        if name not in scores:
            what = f"the evaluations of this run have no '{name}'."
            raise CheckFailed([Problem(f"{self.key}.metric", what, f"They have: {', '.join(scores)}.")])
        return scores[name] if self.mode == "max" else -scores[name]

    def name_in(self, scores: Mapping[str, float]) -> str:
        """Return the name of the number among all of an evaluation."""
        return next(iter(scores)) if self.metric == "auto" else self.metric

    def shown(self, value: float) -> str:
        """Return a value of `of` as the evaluation has it."""
        return f"{value if self.mode == 'max' else -value:.4f}"


def scores_of_untouched(means: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the numbers of each evaluation before the training by their names, also as those of an average."""
    found = {f"{name}/{metric}": value for name, values in means.items() for metric, value in values.items()}
    return found | {f"average/{name}": value for name, value in found.items()}


def check_metrics(trainer: Trainer, scores: Mapping[str, float]) -> None:
    """Check that the numbers that callbacks go by are among those of the evaluations, before anything is trained.

    Raises:
        CheckFailed: there is no number of such a name.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(judged := getattr(callback, "judged", None), MonitoredMetric):
            judged.of(scores)
