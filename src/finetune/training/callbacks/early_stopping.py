"""An end of the training before its last step, when the model does not improve any more."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune.config.types import NotEmptyText, NotNegative, PositiveInt
from finetune.training.callbacks.evaluate import MonitoredMetric
from finetune.training.callbacks.order import CallbackOrder


class EarlyStopping(Callback):
    """Ends the training after `patience` evaluations in a row that did not improve the best score by `at_least`."""

    order: ClassVar[int] = CallbackOrder.DECIDES

    def __init__(
        self,
        patience: PositiveInt = 5,
        at_least: NotNegative = 0.0,
        metric: NotEmptyText = "auto",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        self.patience, self.at_least = patience, at_least
        self.monitored = MonitoredMetric(metric, mode, "callbacks.early_stopping")
        self._best, self._worse, self._stopped = -math.inf, 0, False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """End a resumed training at once that had ended before the process was killed."""
        trainer.should_stop = trainer.should_stop or self._stopped

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Count the evaluations without improvement, and stop if there are too many."""
        value = self.monitored.now(trainer)
        if value is None or self._stopped:
            return
        if value > self._best + self.at_least:
            self._best, self._worse = value, 0
            return
        self._worse += 1
        if self._worse >= self.patience:
            self._stopped = trainer.should_stop = True

    @property
    def ended_by(self) -> str | None:
        """What ended the training, if this callback did."""
        return f"{self.monitored.key}: no better for {self._worse} evaluations" if self._stopped else None

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, and the number of evaluations since."""
        return {"best": self._best, "worse": self._worse, "stopped": self._stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._best, self._worse, self._stopped = state["best"], state["worse"], state["stopped"]
