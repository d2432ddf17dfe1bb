"""What stands between a pooled embedding and the one that is used: layers that project it.

Shapes: N items, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError

# What sentence-transformers' folders name, and all that is looked up of it.
_ACTIVATIONS = {
    name: getattr(nn, name) for name in ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "ELU", "LeakyReLU")
}


class Dense(nn.Module):
    """A linear layer and an activation, as sentence-transformers' module of that name saves them."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, activation: str = "Identity") -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation_name = activation
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, emb_ND: Tensor) -> Tensor:
        """Return what becomes of embeddings `(N, inputs)`: `(N, outputs)`."""
        projected: Tensor = self.activation(self.linear(emb_ND))
        return projected

    @classmethod
    def load(cls, folder: Path) -> Dense:
        """Return the layer that a folder holds.

        Raises:
            ModelError: it does more than a linear layer and a known activation, or its weights are no safetensors.
        """
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
        on_tokens = config.get("module_input_name", "sentence_embedding") != "sentence_embedding"
        if activation not in _ACTIVATIONS or config.get("use_residual") or on_tokens:
            kind = "works on tokens" if on_tokens else "has a residual" if config.get("use_residual") else activation
            raise ModelError(f"{folder}: a dense layer of this kind ({kind}) is not known.", "Take another model.")
        if not (folder / "model.safetensors").is_file():
            raise ModelError(
                f"{folder}: this dense layer has no safetensors weights, and pickles are not read.",
                "Convert it once where you trust it: SentenceTransformer(...).save(folder).",
            )
        layer = cls(config["in_features"], config["out_features"], config.get("bias", True), activation)
        layer.load_state_dict(load_file(folder / "model.safetensors"))
        return layer.float()

    def save(self, folder: Path) -> None:
        """Write the layer into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        config: dict[str, Any] = {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{type(self.activation).__module__}.{self.activation_name}",
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(
            {name: weight.contiguous() for name, weight in self.state_dict().items()}, folder / "model.safetensors"
        )


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


def projected(emb_ND: Tensor, head: nn.ModuleList, normalize: bool) -> Tensor:
    """Return embeddings after the head, in fp32, of unit length if asked."""
    for layer in head:
        emb_ND = layer(emb_ND)
    emb_ND = emb_ND.float()
    return torch.nn.functional.normalize(emb_ND, dim=-1) if normalize else emb_ND
