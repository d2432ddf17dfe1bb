"""Interpolation between the weights of the pretrained and the tuned model, which may forget less than the tuned one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmpty, NotEmptyText
from finetune.console import say
from finetune.training.callbacks.evaluate import MonitoredMetric
from finetune.training.callbacks.interpolate import copy_weights, interpolate, set_weights
from finetune.training.in_training_evaluator import InTrainingEvaluator
from finetune.training.preserve_state import with_weights


class WiseFT(Callback):
    """Evaluates `(1 - alpha) * pretrained + alpha * tuned` after the training, for each of `alphas`; 1 is all tuned.

    With `save` the best one by `metric` is the final model. `evaluator` is provided by the run.

    Source: Wortsman et al. 2022, https://arxiv.org/abs/2109.01903.
    """

    # `finish` is called in reverse order: after those of the best checkpoint and the average, whose order is higher.
    order: ClassVar[int] = 0

    def __init__(
        self,
        evaluator: InTrainingEvaluator,
        alphas: Annotated[list[Fraction], NotEmpty()],
        save: bool = True,
        metric: NotEmptyText = "auto",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        self.alphas, self.save = sorted(set(alphas)), save
        self._evaluator = evaluator
        self.monitored = MonitoredMetric(metric, mode, "callbacks.wise_ft")
        self._pretrained: dict[str, Tensor] = {}
        self.kept_untouched: str | None = None  # why the untouched model is the final model, if it is

    def setup(self, trainer: Trainer, module: nn.Module, stage: str) -> None:
        """Copy the weights of the pretrained model, before those of a checkpoint are loaded."""
        self._pretrained = copy_weights(module)

    def finish(self, trainer: Trainer, module: nn.Module) -> None:
        """Evaluate every alpha, and choose the best one with `save`."""
        tuned = copy_weights(module)
        values: dict[float, float] = {}
        for alpha in self.alphas:
            with with_weights(module, interpolate(self._pretrained, tuned, alpha)):
                scores = self._evaluator.scores(trainer, module, "")
            values[alpha] = self.monitored.value(scores)
            self._report(trainer, alpha, scores)
        if not self.save:
            return
        best = max(values, key=lambda alpha: (values[alpha], alpha))
        set_weights(module, interpolate(self._pretrained, tuned, best))
        say(f"wise_ft: the model is that of alpha {best:g}.")
        if best == 0:
            self.kept_untouched = (
                "No mixture of wise_ft was better than the untouched model, which is alpha 0."
                " The saved model is the untouched one."
            )

    def _report(self, trainer: Trainer, alpha: float, scores: dict[str, float]) -> None:
        name, value = next(iter(scores.items()))
        say(f"wise_ft: alpha {alpha:g}  {name} {value:.4f}")
        for logger in trainer.loggers:
            named: dict[str, Any] = {f"wise_ft/{alpha:g}/{metric}": number for metric, number in scores.items()}
            logger.log_metrics(named, step=trainer.global_step - 1)
