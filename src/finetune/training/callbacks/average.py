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

    With `warmup` the n-th update has a decay of at most (1 + n) / (10 + n), so that a short run does not end with the
    weights that it began with. `evaluate` has evaluations in training measure the mean too, as `average/...`; `save`
    makes it the model in the end.
    """

    place: ClassVar[int] = CallbackOrder.CHANGES
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
        """Begin with the weights as they are, or go on with the mean of a checkpoint."""
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._mean = {
            name: self._mean.get(name, weight.detach()).to(weight.device, torch.float32, copy=True)
            for name, weight in trained.items()
        }

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, module: nn.Module, _outputs: Any, _batch: Any, batch_idx: int
    ) -> None:
        """Let the mean follow the weights."""
        if not ends_step(trainer, batch_idx) or trainer.global_step % self.every_n_steps:
            return
        self._updates += 1
        most = (1 + self._updates) / (10 + self._updates) if self.warmup else 1.0
        weights = dict(module.named_parameters())
        now = [weights[name].detach().float() for name in self._mean]
        torch._foreach_lerp_(list(self._mean.values()), now, 1 - min(self.decay, most))

    def start_from(self, module: nn.Module) -> None:
        """Make the weights as they are the mean."""
        weights = dict(module.named_parameters())
        self._mean = {name: weights[name].detach().to(mean, copy=True) for name, mean in self._mean.items()}

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Have the mean stand where the weights are, for a while."""
        with with_weights(module, self._mean):
            yield

    def finish(self, trainer: Trainer, module: nn.Module) -> None:
        """Make the mean the model, if it is to be saved."""
        if self.save:
            weights = dict(module.named_parameters())
            for name, mean in self._mean.items():
                weights[name].data = mean.to(weights[name].data)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and how often it was updated."""
        return {"mean": self._mean, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the mean of a checkpoint."""
        self._mean, self._updates = state["mean"], state["updates"]


def averages(trainer: Trainer) -> list[Average]:
    """Return the callbacks of a run that average weights."""
    return [each for each in trainer.callbacks if isinstance(each, Average)]  # type: ignore[attr-defined]
