"""Lightning's strategy for sharded encoders: `trainer.strategy=fsdp`. The sharding is in `encoding/sharding.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from finetune.training.no_teardown import NoTeardownAfterError


class Fsdp(NoTeardownAfterError, ModelParallelStrategy):
    """Shards the model over all processes; a checkpoint is one file, the same as with any other strategy."""

    def __init__(self, world: int, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout
        )

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimizer states, and return the rest of the checkpoint.

        Lightning's own method takes the weights' numbers in an optimizer state for their positions in the model, which
        is right only for checkpoints that were saved by this strategy.
        """
        checkpoint: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        names = {weight: name for name, weight in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, _keyed_by_name(state, optimizer, names), options=options)
        return checkpoint


def _keyed_by_name(state: dict[str, Any], optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Any]:
    """Return an optimizer state with weights' names instead of numbers; groups and their order are the optimizer's."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    name_of = {number: names[weight] for number, weight in zip(numbers, weights, strict=True)}
    groups = []
    for group in state["param_groups"]:
        groups.append({**group, "params": [name_of[number] for number in group["params"]]})
    return {
        "state": {name_of[number]: values for number, values in state["state"].items()},
        "param_groups": groups,
    }
