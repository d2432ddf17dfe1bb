"""Mines hard negatives again during the training, and keeps those in use in every checkpoint."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer

from finetune.encoding.collectives import Collectives
from finetune.training.callbacks.order import CallbackOrder, ends_step, is_last_step
from finetune.training.in_training_evaluator import without_training
from finetune.training.negative_mining import NegativeMining


class MineNegatives(Callback):
    """Mines again after every so many optimizer steps as the settings say, except after the last one.

    A checkpoint has the negatives of all rows, so that a resumed run trains with the same ones.
    """

    order: ClassVar[int] = CallbackOrder.MEASURES

    def __init__(self, mining: NegativeMining) -> None:
        self._mining = mining

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Mine if it is due."""
        every_n_steps = self._mining.every_n_steps
        if every_n_steps is None or not ends_step(trainer, batch_idx) or is_last_step(trainer, module):
            return
        if trainer.global_step % every_n_steps == 0:
            module.check_loss()  # a loss that is not finite explains more than embeddings that are not
            with without_training(module):
                self._mining.update(Collectives.from_trainer(trainer), trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return what was mined last for all rows, and the facts of all minings so far."""
        assert self._mining.found is not None
        negatives, relabelled = (torch.from_numpy(numbers.astype(np.int32)) for numbers in self._mining.found)
        return {"negatives": negatives, "relabelled": relabelled, "rounds": self._mining.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Train with the negatives of a checkpoint."""
        self._mining.rounds = list(state["rounds"])
        self._mining.set_found(*(state[name].numpy().astype(np.int64) for name in ("negatives", "relabelled")))
