"""An encoder whose weights, gradients and optimizer states are sharded over the processes (FSDP).

Each layer is gathered when it is computed and freed afterwards. Source: Zhao et al. 2023,
https://arxiv.org/abs/2304.11277; torch's second version of it,
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from finetune.errors import FinetuneError, ModelError
from finetune.models.backbone import layers_of
from finetune.models.encoder import Encoder
from finetune.models.fused_layer import separate_layers


def shard(encoder: Encoder, losses: nn.Module, mesh: Any) -> None:
    """Shard an encoder's weights over the processes of `mesh`: each layer on its own, and then all other weights.

    Raises:
        FinetuneError: the losses have weights too, which would have to be the same in all processes.
    """
    if any(weight.requires_grad for weight in losses.parameters()):
        what = "trainer.strategy=fsdp does not shard a loss that has weights of its own."
        raise FinetuneError(what, "Set trainer.strategy=ddp, or choose another loss.")
    separate_layers(encoder)  # what micro-batches share of the weights would need all weights at once
    for backbone in encoder.backbones():
        for layer in _layers(backbone, encoder.name):
            fully_shard(layer, mesh=mesh)
    fully_shard(encoder, mesh=mesh)


def _layers(backbone: nn.Module, name: str) -> list[nn.Module]:
    """Return the layers of a backbone; none if they are not found, and then the backbone is gathered as a whole."""
    try:
        return list(layers_of(backbone, name))
    except ModelError:
        return []


@contextmanager
def unsharded(encoder: nn.Module) -> Iterator[None]:
    """Keep all weights gathered in every process, so that each can compute without waiting for the others."""
    parts = [module for module in encoder.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # The default of fully_shard: the root, which is gathered first, is needed again at once in the backward.
            part.set_reshard_after_forward(part is not encoder, recurse=False)


def unshard(encoder: nn.Module) -> None:
    """Turn a sharded encoder into an ordinary one, with all weights in every process."""
    weights = {name: _full_weight(weight) for name, weight in encoder.named_parameters()}
    for module in encoder.modules():
        if isinstance(module, FSDPModule):
            undo_fully_shard(module)
    for name, weight in weights.items():
        parent, _, attribute = name.rpartition(".")
        setattr(encoder.get_submodule(parent), attribute, weight)


def _full_weight(weight: nn.Parameter) -> nn.Parameter:
    if not isinstance(weight, DTensor):
        return weight
    return nn.Parameter(weight.full_tensor(), requires_grad=weight.requires_grad)


def undo_fully_shard(module: FSDPModule) -> None:
    """Remove what `fully_shard` added to one module, except for the sharded weights, which the caller replaces.

    torch (2.10 to 2.13) has no public inverse. It offers the state dict for saving and loading into a new model, but
    evaluation, callbacks and export all refer to this very encoder, with its adapters, buffers and hooks. So this uses
    private attributes, here only; tests/encoding/test_sharding.py fails if torch changes what it adds:

    - a subclass `(FSDPModule, original class)` as the class of the module,
    - a forward pre-hook and a forward hook, whose handles are in the FSDP state,
    - hooks before saving and loading a state dict, whose handles are in each parameter group,
    - a hook after loading a state dict for each parameter.
    """
    state: Any = module._get_fsdp_state()
    handles = [state._pre_forward_hook_handle, state._post_forward_hook_handle]
    group = state._fsdp_param_group  # None without any parameter
    if group is not None:
        handles += group._module_to_pre_save_state_dict_hook_handle.values()
        handles += group._module_to_pre_load_state_dict_hook_handle.values()
        handles += [parameter._post_load_hook_handle for parameter in group.fsdp_params]
    for handle in handles:
        handle.remove()
    _, original_class = type(module).__bases__
    module.__class__ = original_class
