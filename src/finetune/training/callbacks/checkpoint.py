"""Which steps of a training are saved, and for how long."""

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
from finetune.runs.directory import RunDirectory
from finetune.training.callbacks.average import averages
from finetune.training.callbacks.evaluate import MonitoredMetric
from finetune.training.callbacks.order import CallbackOrder, ends_step, is_last_step


class Checkpoint(Callback):
    """Saves every `every_n_steps` optimizer steps, `every_n_minutes` after the last save, and after epochs and the run.

    The `keep_last` newest are kept, those of every `keep_every_n_steps`-th step, and the `best` ones by `metric` of the
    evaluations in training; with `restore_best` the best is the model in the end, or the untouched model if it was
    better than all of them. `directory` is given by the run.
    """

    place: ClassVar[int] = CallbackOrder.SAVES

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
        self.judged = MonitoredMetric(metric, mode, "callbacks.checkpoint")
        self._saved = RunDirectory(Path(directory or ".")).saved
        self._best: list[list[float]] = []  # value and step, the best first
        self._untouched: dict[str, Tensor] = {}  # weights before the training, to restore them
        self._untouched_value: float | None = None
        self._metric = ""
        self.kept_untouched: str | None = None  # why the untouched model is the model in the end, if it is
        self._saved_at = 0.0  # by a clock that nothing sets back
        self.was_time = False  # of several processes: whether it was time in one of them at the end of the last step

    def setup(self, trainer: Trainer, module: nn.Module, stage: str) -> None:
        """Keep what the training will change, in CPU memory, before a checkpoint is loaded."""
        if self.restore_best:
            changed = {name for name, weight in module.named_parameters() if weight.requires_grad}
            changed |= {name for name, _ in module.named_buffers()}
            state = module.state_dict()
            self._untouched = {name: state[name].to("cpu", copy=True) for name in state if name in changed}

    def judge_untouched(self, scores: Mapping[str, float]) -> None:
        """Take the scores of the untouched model, to compare those of the training with."""
        self._untouched_value, self._metric = self.judged.of(scores), self.judged.name_in(scores)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start to count the minutes."""
        self._saved_at, self.was_time = time.monotonic(), False

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Save if it is time.

        All saves are made here, those at an epoch's end too: from the hook that Lightning has for those, a resumed run
        loses batches (after a stop within an epoch, or with `max_steps`).
        """
        if not ends_step(trainer, batch_idx):
            return  # gradients that have yet to be used are in no checkpoint
        step = trainer.global_step
        is_best = self._is_among_best(trainer, step)
        is_over = trainer.is_last_batch or is_last_step(trainer, module)
        is_due = step % self.every_n_steps == 0 or self._is_periodic(step) or self._is_time_in_all(trainer)
        if is_best or is_over or is_due:
            module.check_loss()
            trainer.save_checkpoint(self._saved.path(step), weights_only=False)
            if trainer.is_global_zero:
                self._tidy()
            self._saved_at, self.was_time = time.monotonic(), False

    def finish(self, trainer: Trainer, module: Any) -> None:
        """Make the best checkpoint the model, or the untouched model if it was better, if that is asked for."""
        if not self.restore_best or not self._best:
            return
        value, step = self._best[0][0], int(self._best[0][1])
        if self._untouched_value is not None and self._untouched_value > value:
            self._restore_untouched(trainer, module)
            untouched, best = self.judged.shown(self._untouched_value), self.judged.shown(value)
            self.kept_untouched = (
                f"No step of the training was better than the untouched model: {self._metric} {untouched}, and {best}"
                f" at step {step}, the best of those that were evaluated. The saved model is the untouched one."
            )
            return
        found = torch.load(self._saved.path(step), weights_only=True, map_location="cpu")
        module.load_state_dict(found["state_dict"])
        for average in averages(trainer):
            average.load_state_dict(found["callbacks"][average.state_key])
        say(f"The model is that of step {step}, the best of those that were evaluated.")

    def _restore_untouched(self, trainer: Trainer, module: nn.Module) -> None:
        there = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in self._untouched.items():
            there[name].data = value.to(there[name].device)
        for average in averages(trainer):  # which comes after this callback, and would put its mean in place
            average.start_from(module)

    def state_dict(self) -> dict[str, Any]:
        """Return what was best so far."""
        return {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was best."""
        self._best = state["best"]

    def is_time(self) -> bool:
        """Return whether the last save is `every_n_minutes` ago by the clock of this process."""
        return self.every_n_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_n_minutes

    def _is_time_in_all(self, trainer: Trainer) -> bool:
        # All processes save together, and their clocks differ: StopOnSignal asks them all once at the end of a step.
        return self.was_time if trainer.world_size > 1 else self.is_time()

    def _is_periodic(self, step: int) -> bool:
        return bool(self.keep_every_n_steps) and step % int(self.keep_every_n_steps or 1) == 0

    def _is_among_best(self, trainer: Trainer, step: int) -> bool:
        value = self.judged.now(trainer) if self.best else None
        if value is None:
            return False
        # Of equals the earlier one is kept.
        self._best = sorted([*self._best, [value, step]], key=lambda each: (-each[0], each[1]))[: self.best]
        return [value, step] in self._best

    def _tidy(self) -> None:
        steps = self._saved.steps()
        best = [int(step) for _, step in self._best]
        self._saved.keep({*steps[-self.keep_last :], *best, *filter(self._is_periodic, steps)})
        if best:
            self._saved.link("best", self._saved.path(best[0]))
