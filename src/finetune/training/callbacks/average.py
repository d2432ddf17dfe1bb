"""A running mean of the weights, often a better model than the last of them.

Source: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046; with decay as in Tarvainen and Valpola 2017,
https://arxiv.org/abs/1703.01780.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from finetune.config.types import BelowOne, PositiveInt
from finetune.training.callbacks.order import CallbackOrder, ends_step
from finetune.training.preserve_state import with_weights


class Average(Callback):
    """Keeps `mean = decay * mean + (1 - decay) * weights` of trained weights in fp32, updated every `every_n_steps`.

    With `warmup` the n-th update has a decay of at most (1 + n) / (10 + n), so that the mean of a short run is not
    dominated by the initial weights. With `evaluate` evaluations during the training include the mean, as
    `average/...`; with `save` the mean is the final model.
    """

    order: ClassVar[int] = CallbackOrder.CHANGES
    name: ClassVar[str] = "average"

    def __init__(
        self,
        decay: BelowOne = 0.999,
        every_n_steps: PositiveInt = 1,
        warmup: bool = True,
        evaluate: bool = True,
        save: bool = True,
    ) -> None:
        self.decay, self.every_n_steps, self.warmup = decay, every_n_steps, warmup
        self.evaluate, self.save = evaluate, save
        self._mean: dict[str, Tensor] = {}
        self._updates = 0

    def on_fit_start(self, trainer: Trainer, module: nn.Module) -> None:
        """Start with the current weights, or with the mean of a checkpoint."""
        from_checkpoint, self._mean = self._mean, {}
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                start = from_checkpoint.get(name, weight.detach())
                self._mean[name] = start.to(weight.device, torch.float32, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, module: nn.Module, _outputs: Any, _batch: Any, batch_idx: int
    ) -> None:
        """Update the mean if it is due."""
        if not ends_step(trainer, batch_idx) or trainer.global_step % self.every_n_steps:
            return
        self._updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self._updates) / (10 + self._updates))
        weights = dict(module.named_parameters())
        current = [weights[name].detach().float() for name in self._mean]
        torch._foreach_lerp_(list(self._mean.values()), current, 1 - decay)

    def start_from(self, module: nn.Module) -> None:
        """Set the mean to the current weights."""
        weights = dict(module.named_parameters())
        self._mean = {name: weights[name].detach().to(mean, copy=True) for name, mean in self._mean.items()}

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Use the mean as the weights, and restore the weights afterwards."""
        with with_weights(module, self._mean):
            yield

    def finish(self, trainer: Trainer, module: nn.Module) -> None:
        """Make the mean the final weights, with `save`."""
        if self.save:
            weights = dict(module.named_parameters())
            for name, mean in self._mean.items():
                weights[name].data = mean.to(weights[name].data)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the number of its updates."""
        return {"mean": self._mean, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the mean of a checkpoint."""
        self._mean, self._updates = state["mean"], state["updates"]


def averages(trainer: Trainer) -> list[Average]:
    """Return the callbacks of a run that average weights."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Average)]  # type: ignore[attr-defined]
