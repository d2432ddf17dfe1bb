"""What is between a pooled embedding and the one that is used: layers that project it.

Shapes: N items, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, first_line
from finetune.models.st_format.checks import without_layer_weights
from finetune.models.st_format.config import LAYER_WEIGHTS, PICKLED_LAYER_WEIGHTS, Layer
from finetune.models.st_format.write import write_json


class HeadLayer(nn.Module):
    """A layer after the pooling, which sentence-transformers knows as the module `kind`."""

    kind: ClassVar[str]

    def outputs(self, width: int) -> int:
        """Return the width of what becomes of embeddings of `width`."""
        return width

    def settings(self) -> dict[str, Any]:
        """Return the content of its `config.json`."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the layer into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        write_json(folder / "config.json", self.settings())
        if weights := self.state_dict():
            save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / LAYER_WEIGHTS)


class Dense(HeadLayer):
    """A linear layer and an activation; with a residual, the input (projected if its width changes) is added."""

    kind = "Dense"

    def __init__(
        self, inputs: int, outputs: int, bias: bool = True, activation: str = "Identity", residual: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation_name = activation
        self.activation = getattr(nn, activation)()
        self.use_residual = residual
        if residual and inputs != outputs:
            self.residual = nn.Linear(inputs, outputs, bias=False)

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return what becomes of embeddings `(N, inputs)`: `(N, outputs)`."""
        projected: Tensor = self.activation(self.linear(emb_ND))
        if not self.use_residual:
            return projected
        return projected + (self.residual(emb_ND) if hasattr(self, "residual") else emb_ND)

    def outputs(self, width: int) -> int:
        """Return the width of what the linear layer gives."""
        return self.linear.out_features

    def settings(self) -> dict[str, Any]:
        """Return the content of its `config.json`; `use_residual` is unknown to sentence-transformers before 5.7."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{type(self.activation).__module__}.{self.activation_name}",
            **({"use_residual": True} if self.use_residual else {}),
        }


class LayerNorm(HeadLayer):
    """A layer normalisation of the embedding."""

    kind = "LayerNorm"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return the normalised embeddings `(N, D)`."""
        normed: Tensor = self.norm(emb_ND)
        return normed

    def settings(self) -> dict[str, Any]:
        """Return the content of its `config.json`."""
        return {"dimension": self.norm.normalized_shape[0]}


class Dropout(HeadLayer):
    """Dropout of the embedding, in training only."""

    kind = "Dropout"

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return the embeddings `(N, D)`."""
        dropped: Tensor = self.dropout(emb_ND)
        return dropped

    def settings(self) -> dict[str, Any]:
        """Return the content of its `config.json`."""
        return {"dropout": self.dropout.p}


class Normalize(HeadLayer):
    """Unit length, before further layers; the last normalisation is `projected`'s."""

    kind = "Normalize"

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return the embeddings `(N, D)` at unit length."""
        return nn.functional.normalize(emb_ND, dim=-1)

    def settings(self) -> dict[str, Any]:
        """Return the content of its `config.json`."""
        return {}


def load_layers(layers: Sequence[Layer], width: int, allow_pickle: bool = False) -> list[HeadLayer]:
    """Return the layers that a folder has after its pooling, which gives embeddings of `width`.

    Raises:
        ModelError: one is not known, does not fit to what is before it, or its weights cannot be read.
    """
    loaded = []
    for layer in layers:
        made, inputs = _made(layer, width)
        if inputs != width:
            raise ModelError(
                f"{layer.folder}: this {layer.kind} takes {inputs} dimensions, and there are {width} before it.",
                "The folder mixes the modules of two models: get the model again.",
            )
        if made.state_dict():
            _load_weights(made, layer.folder, allow_pickle)
        loaded.append(made.float())
        width = made.outputs(width)
    return loaded


def _made(layer: Layer, width: int) -> tuple[HeadLayer, int]:
    """Return a new layer as a folder describes it, and the width that it takes."""
    config = layer.config
    if layer.kind == "Dense":
        activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        inputs, outputs = int(config["in_features"]), int(config["out_features"])
        residual = bool(config.get("use_residual", False))
        return Dense(inputs, outputs, bool(config.get("bias", True)), activation, residual), inputs
    if layer.kind == "LayerNorm":
        return LayerNorm(int(config["dimension"])), int(config["dimension"])
    if layer.kind == "Dropout":
        return Dropout(config.get("dropout", 0.2)), width
    return Normalize(), width


def _load_weights(layer: HeadLayer, folder: Path, allow_pickle: bool) -> None:
    from safetensors.torch import load_file

    try:
        if (folder / LAYER_WEIGHTS).is_file():
            weights: Mapping[str, Tensor] = load_file(folder / LAYER_WEIGHTS)
        elif allow_pickle and (folder / PICKLED_LAYER_WEIGHTS).is_file():
            weights = torch.load(folder / PICKLED_LAYER_WEIGHTS, map_location="cpu", weights_only=True)
        else:
            raise without_layer_weights(layer.kind, folder)
        layer.load_state_dict(weights)
    except ModelError:
        raise
    except Exception as error:  # the unpickler and safetensors have errors of their own
        raise ModelError(
            f"{folder}: the weights of this {layer.kind} cannot be read ({first_line(error)}).", "Get the model again."
        ) from error


def new_head(width: int, output_width: int | None, kind: str | None) -> list[Dense]:
    """Return new layers from `width` to `output_width` (`None`: the same).

    `linear` starts as an orthogonal projection, which keeps distances as well as a random one can; `mlp` has a hidden
    layer as wide as the backbone (Chen et al. 2020, https://arxiv.org/abs/2002.05709); `None` is none, unless the
    width changes.

    Raises:
        ModelError: embeddings shall become wider than the backbone's.
    """
    if output_width is not None and output_width > width:
        raise ModelError(
            f"model.output_width={output_width} is more than the {width} dimensions that the backbone has.",
            f"Take {width} or less: a wider embedding would hold no more.",
        )
    if kind is None and output_width in (None, width):
        return []
    last = Dense(width, output_width or width, bias=kind == "mlp")
    if kind == "mlp":
        return [Dense(width, width, activation="GELU"), last]
    nn.init.orthogonal_(last.linear.weight)
    return [last]


def head_width(head: nn.ModuleList, width: int) -> int:
    """Return the width of what becomes of embeddings of `width`."""
    for layer in head:
        width = layer.outputs(width)  # type: ignore[operator]
    return width


def projected(emb_ND: Tensor, head: nn.ModuleList, normalize: bool, truncate: int | None = None) -> Tensor:
    """Return embeddings after the head in fp32, their first `truncate` numbers, of unit length if asked."""
    for layer in head:
        emb_ND = layer(emb_ND)
    emb_ND = emb_ND.float()[:, :truncate]
    return torch.nn.functional.normalize(emb_ND, dim=-1) if normalize else emb_ND
