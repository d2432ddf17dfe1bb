"""Make the torch modules of a sentence-transformers folder after its backbone, with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ModelError, first_line
from finetune.models.head import Dense, Dropout, HeadLayer, LayerNorm, Normalize
from finetune.models.pooling import Pooling
from finetune.models.st_format.config import StConfig, missing_layer_weights
from finetune.models.st_format.modules import LAYER_WEIGHTS, PICKLED_LAYER_WEIGHTS, POOLING_WEIGHTS, Layer


def load_pooling(mode: str, width: int, st_config: StConfig) -> Pooling:
    """Return a pooling over tokens of this width, with the weights that the folder has for it."""
    pooling = Pooling(mode, width)
    if mode == st_config.pooling and st_config.pooling_folder is not None and pooling.state_dict():
        from safetensors.torch import load_file

        pooling.load_state_dict(load_file(st_config.pooling_folder / POOLING_WEIGHTS))
    return pooling


def load_layers(layers: Sequence[Layer], width: int, allow_pickle: bool = False) -> list[HeadLayer]:
    """Return the layers that a folder has after its pooling, which returns embeddings of this width.

    Raises:
        ModelError: the width of one does not match the one before it, or its weights cannot be read.
    """
    loaded = []
    for layer in layers:
        module, input_width = _new_layer(layer, width)
        if input_width != width:
            raise ModelError(
                f"{layer.folder}: this {layer.kind} takes {input_width} dimensions, but the module before it returns"
                f" {width}.",
                "The folder mixes the modules of two models: get the model again.",
            )
        if module.state_dict():
            _load_weights(module, layer, allow_pickle)
        loaded.append(module.float())
        width = module.output_width(width)
    return loaded


def _new_layer(layer: Layer, width: int) -> tuple[HeadLayer, int]:
    """Return a new layer with the configuration of a folder, and its input width."""
    config = layer.config
    if layer.kind == "Dense":
        return _new_dense(config), int(config["in_features"])
    if layer.kind == "LayerNorm":
        return LayerNorm(int(config["dimension"])), int(config["dimension"])
    if layer.kind == "Dropout":
        return Dropout(config.get("dropout", 0.2)), width
    return Normalize(), width


def _new_dense(config: Mapping[str, Any]) -> Dense:
    return Dense(
        int(config["in_features"]),
        int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=str(config.get("activation_function", "Tanh")).rpartition(".")[2],
        residual=bool(config.get("use_residual", False)),
    )


def _load_weights(module: HeadLayer, layer: Layer, allow_pickle: bool) -> None:
    try:
        module.load_state_dict(_read_weights(layer, allow_pickle))
    except ModelError:
        raise
    except Exception as error:  # the unpickler and safetensors have exceptions of their own
        raise ModelError(
            f"{layer.folder}: the weights of this {layer.kind} cannot be read ({first_line(error)}).",
            "Get the model again.",
        ) from error


def _read_weights(layer: Layer, allow_pickle: bool) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    file, pickled = layer.folder / LAYER_WEIGHTS, layer.folder / PICKLED_LAYER_WEIGHTS
    if file.is_file():
        return load_file(file)
    if allow_pickle and pickled.is_file():
        weights: Mapping[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
        return weights
    raise missing_layer_weights(layer)
