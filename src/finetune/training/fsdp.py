"""A model whose weights, gradients and optimizer states are shared out over the processes (FSDP).

Each layer is gathered when it is computed and let go again. Source: Zhao et al. 2023, https://arxiv.org/abs/2304.11277;
torch's second version of it, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from finetune.errors import FinetuneError, ModelError
from finetune.models.backbone import layers_of
from finetune.models.encoder import Encoder
from finetune.models.fused_layer import separate_layers


class Fsdp(ModelParallelStrategy):
    """All processes share one model out among them; a checkpoint is one file, as with any other strategy."""

    def __init__(self, world: int) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Take back weights and optimizer states, and return the rest.

        Lightning's own takes the numbers of an optimizer's weights for their places in the model, which they are only
        in a checkpoint that was saved by this strategy.
        """
        checkpoint: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        names = {weight: name for name, weight in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, _by_name(state, optimizer, names), options=options)
        return checkpoint


def _by_name(state: dict[str, Any], optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Any]:
    """Return a state whose weights are numbered with their names instead: they stand in the same groups and order."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    name_of = {number: names[weight] for number, weight in zip(numbers, weights, strict=True)}
    groups = [{**group, "params": [name_of[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {name_of[number]: kept for number, kept in state["state"].items()}, "param_groups": groups}


def shard(encoder: Encoder, losses: nn.Module, mesh: Any) -> None:
    """Share an encoder's weights out over the processes of `mesh`: those of each layer together, and the rest.

    Raises:
        FinetuneError: the losses have weights too, which would have to be the same everywhere.
    """
    if any(weight.requires_grad for weight in losses.parameters()):
        what = "trainer.strategy=fsdp does not share out a loss that has weights of its own."
        raise FinetuneError(what, "Set trainer.strategy=ddp, or take another loss.")
    separate_layers(encoder)  # what several micro-batches share of its weights would have to be gathered as a whole
    for backbone in encoder.backbones():
        for layer in _layers(backbone, encoder.name):
            fully_shard(layer, mesh=mesh)
    fully_shard(encoder, mesh=mesh)


def _layers(backbone: nn.Module, name: str) -> list[nn.Module]:
    try:
        return list(layers_of(backbone, name))
    except ModelError:
        return []  # then it is gathered as a whole


@contextmanager
def unsharded(encoder: nn.Module) -> Iterator[None]:
    """Have every process hold all weights for a while, to compute without waiting for the others."""
    parts = [module for module in encoder.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # As fully_shard has it: what is gathered first is needed again at once.
            part.set_reshard_after_forward(part is not encoder, recurse=False)


def unshard(encoder: nn.Module) -> None:
    """Make an encoder an ordinary one again, with all weights in every process."""
    weights = {name: _full(weight) for name, weight in encoder.named_parameters()}
    for module in encoder.modules():
        if isinstance(module, FSDPModule):
            for hook in _hooks(module._get_fsdp_state()):
                hook.remove()
            module.__class__ = type(module).__mro__[2]  # torch puts its own class in front
    for name, weight in weights.items():
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, weight)


def _hooks(state: Any) -> Iterator[Any]:
    """Yield all by which torch gets hold of a module; it offers no way back."""
    yield state._pre_forward_hook_handle
    yield state._post_forward_hook_handle
    if (group := state._fsdp_param_group) is not None:
        yield from group._module_to_pre_save_state_dict_hook_handle.values()
        yield from group._module_to_pre_load_state_dict_hook_handle.values()
        yield from (weight._post_load_hook_handle for weight in group.fsdp_params)


def _full(weight: nn.Parameter) -> nn.Parameter:
    if not isinstance(weight, DTensor):
        return weight
    return nn.Parameter(weight.full_tensor(), requires_grad=weight.requires_grad)
