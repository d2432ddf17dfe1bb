"""The head: layers between the pooled embedding and the final one.

Shapes: N items, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor, nn

from finetune.errors import ModelError


class HeadLayer(nn.Module):
    """A layer after the pooling; `kind` is the name of the same module in sentence-transformers."""

    kind: ClassVar[str]

    def output_width(self, width: int) -> int:
        """Return the width of the result for embeddings of this width."""
        return width

    def config(self) -> dict[str, Any]:
        """Return the content of its `config.json` in a sentence-transformers folder."""
        return {}


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
        """Project embeddings `(N, inputs)` to `(N, outputs)`."""
        projected: Tensor = self.activation(self.linear(emb_ND))
        if not self.use_residual:
            return projected
        if hasattr(self, "residual"):
            emb_ND = self.residual(emb_ND)
        return projected + emb_ND

    def output_width(self, width: int) -> int:
        """Return the width of the result for embeddings of this width."""
        return self.linear.out_features

    def config(self) -> dict[str, Any]:
        """Return the content of its `config.json`; sentence-transformers before 5.7 does not support `use_residual`."""
        config = {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{type(self.activation).__module__}.{self.activation_name}",
        }
        if self.use_residual:
            config["use_residual"] = True
        return config


class LayerNorm(HeadLayer):
    """Layer normalization of the embedding."""

    kind = "LayerNorm"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return the normalized embeddings `(N, D)`."""
        normed: Tensor = self.norm(emb_ND)
        return normed

    def config(self) -> dict[str, Any]:
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

    def config(self) -> dict[str, Any]:
        """Return the content of its `config.json`."""
        return {"dropout": self.dropout.p}


class Normalize(HeadLayer):
    """Unit length before further layers; the final normalization is part of `apply_head`."""

    kind = "Normalize"

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return the embeddings `(N, D)` at unit length."""
        return nn.functional.normalize(emb_ND, dim=-1)


def new_head(width: int, output_width: int | None, kind: str | None) -> list[Dense]:
    """Return new layers from `width` to `output_width` (`None`: the same).

    `linear` starts as an orthogonal projection, which preserves distances as well as a random one can; `mlp` has a
    hidden layer as wide as the backbone (Chen et al. 2020, https://arxiv.org/abs/2002.05709). With `None` there is no
    layer, or a linear one where the width changes.

    Raises:
        ModelError: `output_width` is larger than the width of the backbone.
    """
    if output_width is not None and output_width > width:
        raise ModelError(
            f"model.output_width={output_width} is more than the {width} dimensions of the backbone.",
            f"Set {width} or less: a wider embedding would contain no more information.",
        )
    if kind is None and output_width in (None, width):
        return []
    last = Dense(width, output_width or width, bias=kind == "mlp")
    if kind == "mlp":
        return [Dense(width, width, activation="GELU"), last]
    nn.init.orthogonal_(last.linear.weight)
    return [last]


def head_width(head: nn.ModuleList, width: int) -> int:
    """Return the width of the result of the head for embeddings of this width."""
    for layer in head:
        width = cast(HeadLayer, layer).output_width(width)
    return width


def apply_head(emb_ND: Tensor, head: nn.ModuleList, normalize: bool, truncate: int | None = None) -> Tensor:
    """Return embeddings after the head in fp32, truncated to `truncate` dimensions, at unit length with `normalize`."""
    for layer in head:
        emb_ND = layer(emb_ND)
    emb_ND = emb_ND.float()[:, :truncate]
    if normalize:
        emb_ND = nn.functional.normalize(emb_ND, dim=-1)
    return emb_ND
