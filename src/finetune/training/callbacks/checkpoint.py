"""Saves checkpoints during the training, and removes old ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from finetune.config.types import CountFromZero, NotEmptyText, Positive, PositiveInt
from finetune.console import say
from finetune.encoding.collectives import Collectives
from finetune.runs.directory import RunDirectory
from finetune.training.callbacks.average import averages
from finetune.training.callbacks.evaluate import MonitoredMetric
from finetune.training.callbacks.order import CallbackOrder, ends_step, is_last_step


class Checkpoint(Callback):
    """Saves every `every_n_steps` optimizer steps, `every_n_minutes` after the last save, and after epochs and the run.

    Kept are the newest `keep_last`, those of every `keep_every_n_steps`-th step, and the `best` ones by `metric` of the
    evaluations during the training. With `restore_best` the best one is the final model, or the untouched model if that
    was better than all of them. `directory` is provided by the run.
    """

    order: ClassVar[int] = CallbackOrder.SAVES

    def __init__(
        self,
        every_n_steps: PositiveInt = 500,
        every_n_minutes: Positive | None = 10.0,
        keep_last: PositiveInt = 2,
        keep_every_n_steps: PositiveInt | None = None,
        best: CountFromZero = 0,
        metric: NotEmptyText = "auto",
        mode: Literal["max", "min"] = "max",
        restore_best: bool = False,
        directory: str | None = None,
    ) -> None:
        self.every_n_steps, self.keep_last, self.keep_every_n_steps = every_n_steps, keep_last, keep_every_n_steps
        self.every_n_minutes = every_n_minutes
        self.best, self.restore_best = best, restore_best
        self.monitored = MonitoredMetric(metric, mode, "callbacks.checkpoint")
        self._saved = RunDirectory(Path(directory or ".")).saved
        self._best: list[list[float]] = []  # [value, step], the best first
        self._untouched: dict[str, Tensor] = {}  # weights before the training, to restore them
        self._untouched_value: float | None = None
        self._metric = ""
        self.kept_untouched: str | None = None  # why the untouched model is the final model, if it is
        self._saved_at = 0.0  # by the monotonic clock
        # With several processes: whether the minutes were over in any process at the end of the last step.
        self.is_time_in_any = False

    def setup(self, trainer: Trainer, module: nn.Module, stage: str) -> None:
        """Copy what the training will change to CPU memory, before a checkpoint is loaded."""
        if self.restore_best:
            changed = {name for name, weight in module.named_parameters() if weight.requires_grad}
            changed |= {name for name, _ in module.named_buffers()}
            state = module.state_dict()
            self._untouched = {name: state[name].to("cpu", copy=True) for name in state if name in changed}

    def judge_untouched(self, scores: Mapping[str, float]) -> None:
        """Set the scores of the untouched model, to compare the best one with."""
        self._untouched_value = self.monitored.value(scores)
        self._metric = self.monitored.name_in(scores)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start to count the minutes."""
        self._saved_at, self.is_time_in_any = time.monotonic(), False

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Save if it is due.

        All checkpoints are saved here, also those at the end of an epoch: with a checkpoint from Lightning's hook for
        those, a resumed run loses batches (after a stop within an epoch, or with `max_steps`).
        """
        if not ends_step(trainer, batch_idx):
            return  # a checkpoint does not contain accumulated gradients
        step = trainer.global_step
        is_best = self._is_among_best(trainer, step)
        is_over = trainer.is_last_batch or is_last_step(trainer, module)
        is_due = step % self.every_n_steps == 0 or self._is_periodic(step) or self._is_time_in_all(trainer)
        if is_best or is_over or is_due:
            module.check_loss()
            trainer.save_checkpoint(self._saved.path(step), weights_only=False)
            if trainer.is_global_zero:
                self._remove_old()
            self._saved_at, self.is_time_in_any = time.monotonic(), False

    def finish(self, trainer: Trainer, module: Any) -> None:
        """With `restore_best`, restore the best checkpoint, or the untouched model if it was better."""
        if not self.restore_best or not self._best:
            return
        value, step = self._best[0][0], int(self._best[0][1])
        if self._untouched_value is not None and self._untouched_value > value:
            self._restore_untouched(trainer, module)
            untouched, best = self.monitored.shown(self._untouched_value), self.monitored.shown(value)
            self.kept_untouched = (
                f"No step of the training was better than the untouched model: {self._metric} {untouched}, and {best}"
                f" at step {step}, the best of those that were evaluated. The saved model is the untouched one."
            )
            return
        checkpoint = torch.load(self._saved.path(step), weights_only=True, map_location="cpu")
        module.load_state_dict(checkpoint["state_dict"])
        for average in averages(trainer):
            average.load_state_dict(checkpoint["callbacks"][average.state_key])
        say(f"The model is that of step {step}, the best of those that were evaluated.")

    def _restore_untouched(self, trainer: Trainer, module: nn.Module) -> None:
        tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in self._untouched.items():
            tensors[name].data = value.to(tensors[name].device)
        for average in averages(trainer):  # its `finish` comes later, and would replace the weights by its mean
            average.start_from(module)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values and steps so far."""
        return {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._best = state["best"]

    def is_time(self) -> bool:
        """Whether the last save is `every_n_minutes` ago by the clock of this process."""
        return self.every_n_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_n_minutes

    def _is_time_in_all(self, trainer: Trainer) -> bool:
        # All processes save together, and their clocks differ: StopOnSignal combines them at the end of each step.
        if trainer.world_size > 1:
            return self.is_time_in_any
        return self.is_time()

    def _is_periodic(self, step: int) -> bool:
        return self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0

    def _is_among_best(self, trainer: Trainer, step: int) -> bool:
        """Add the value of this step to the best ones, if it is among them, and return whether it is."""
        value = self.monitored.now(trainer) if self.best else None
        if value is None:
            return False
        # Of equal values the earlier one is kept.
        candidates = sorted([*self._best, [value, step]], key=lambda candidate: (-candidate[0], candidate[1]))
        self._best = candidates[: self.best]
        return [value, step] in self._best

    def _remove_old(self) -> None:
        steps = self._saved.steps()
        best = [int(step) for _, step in self._best]
        periodic = [step for step in steps if self._is_periodic(step)]
        self._saved.keep({*steps[-self.keep_last :], *best, *periodic})
        if best:
            self._saved.link("best", self._saved.path(best[0]))


def judge_untouched(trainer: Trainer, means: Mapping[str, Mapping[str, float]], collectives: Collectives) -> None:
    """Give the scores of the untouched model to `Checkpoint`, after checking the metrics that callbacks monitor.

    `means` are the means of the metrics by evaluator, in the first process.

    Raises:
        CheckFailed: a callback monitors a metric that does not exist.
    """
    scores = {f"{name}/{metric}": value for name, values in means.items() for metric, value in values.items()}
    of_average = {f"average/{name}": value for name, value in scores.items()}  # untouched, they are the same
    scores = collectives.broadcast({**scores, **of_average})
    if not scores:
        return
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        monitored = getattr(callback, "monitored", None)
        if isinstance(monitored, MonitoredMetric):
            monitored.value(scores)
    for callback in callbacks:
        if isinstance(callback, Checkpoint):
            callback.judge_untouched(scores)
