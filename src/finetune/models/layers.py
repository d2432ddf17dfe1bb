"""The layers of a backbone, one on top of the other: counted, left out, told apart."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune.errors import ModelError

_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def layers_of(backbone: nn.Module, name: str) -> nn.ModuleList:
    """Return the layers of a backbone, the one nearest to its input first.

    Raises:
        ModelError: it has none that can be counted.
    """
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    alike = [found for found in lists if len({type(layer) for layer in found}) == 1]
    if not alike:
        raise ModelError(
            f"model.name={name}: a {type(backbone).__name__} has no layers that can be counted.",
            'Name what is meant by patterns of weights, as in tuning.freeze=["*embeddings*"].',
        )
    return max(alike, key=len)


def keep_layers(backbone: Any, count: int, name: str) -> None:
    """Leave out all but the first `count` layers.

    Raises:
        ModelError: there are not so many.
    """
    layers = layers_of(backbone, name)
    if count > len(layers):
        raise ModelError(
            f"model.keep_layers={count} is more than the {len(layers)} layers that {name} has.",
            f"Take {len(layers)} or less.",
        )
    del layers[count:]
    config = backbone.config
    for key in _COUNTS:
        if hasattr(config, key):
            setattr(config, key, count)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
