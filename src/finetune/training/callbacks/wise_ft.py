"""Between the pretrained and the tuned model: robust where the tuned one has forgotten, good at what it has learnt."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmpty, NotEmptyText
from finetune.console import say
from finetune.training.callbacks.evaluate import MonitoredMetric
from finetune.training.in_training_evaluator import InTrainingEvaluator
from finetune.training.preserve_state import with_weights


class WiseFT(Callback):
    """In the end evaluates `(1 - alpha) * pretrained + alpha * tuned` for each of `alphas`; 1 is the tuned model.

    With `save` the one that is best by `metric` is the model. `gauge` is given by the run.

    Source: Wortsman et al. 2022, https://arxiv.org/abs/2109.01903.
    """

    # What it comes after in the end, the best checkpoint and the average, has a higher place.
    place: ClassVar[int] = 0

    def __init__(
        self,
        gauge: InTrainingEvaluator,
        alphas: Annotated[list[Fraction], NotEmpty()],
        save: bool = True,
        metric: NotEmptyText = "auto",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        self.alphas, self.save = sorted(set(alphas)), save
        self._gauge = gauge
        self.judged = MonitoredMetric(metric, mode, "callbacks.wise_ft")
        self._pretrained: dict[str, Tensor] = {}
        self.kept_untouched: str | None = None  # why the untouched model is the model in the end, if it is

    def setup(self, trainer: Trainer, module: nn.Module, stage: str) -> None:
        """Remember the weights of the pretrained model, before those of a checkpoint come."""
        self._pretrained = {
            name: weight.detach().to("cpu", copy=True)
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }

    def finish(self, trainer: Trainer, module: nn.Module) -> None:
        """Evaluate the grid, and keep the best."""
        weights = dict(module.named_parameters())
        tuned = {name: weights[name].detach().to("cpu", copy=True) for name in self._pretrained}
        found = {}
        for alpha in self.alphas:
            with with_weights(module, self._between(tuned, alpha)):
                scores = self._gauge.scores(trainer, module, "")
            found[alpha] = self.judged.of(scores)
            self._tell(trainer, alpha, scores)
        best = max(found, key=lambda alpha: (found[alpha], alpha))
        if self.save:
            for name, weight in self._between(tuned, best).items():
                weights[name].data = weight.to(weights[name].data)
            say(f"wise_ft: the model is that of alpha {best:g}.")
            if best == 0:
                self.kept_untouched = (
                    "No mixture of wise_ft was better than the untouched model, which is alpha 0."
                    " The saved model is the untouched one."
                )

    def _between(self, tuned: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
        # lerp is exact at both ends: alpha 1 is the tuned model bit by bit.
        return {name: torch.lerp(before, tuned[name], alpha) for name, before in self._pretrained.items()}

    def _tell(self, trainer: Trainer, alpha: float, scores: dict[str, float]) -> None:
        name, value = next(iter(scores.items()))
        say(f"wise_ft: alpha {alpha:g}  {name} {value:.4f}")
        for logger in trainer.loggers:
            named: dict[str, Any] = {f"wise_ft/{alpha:g}/{metric}": number for metric, number in scores.items()}
            logger.log_metrics(named, step=trainer.global_step - 1)
