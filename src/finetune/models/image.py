"""An image encoder: a transformers or timm backbone, a pooling over its patches, a head, unit length.

Shapes: N images, T patches of all of them in a row, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmptyText, NotNegative, PositiveInt
from finetune.data.arrays import Ints
from finetune.models.augment import Augment
from finetune.models.backbone import load_backbone
from finetune.models.encoder import Encoder
from finetune.models.head import HeadLayer, head_width, load_layers, new_head, projected
from finetune.models.layers import keep_layers as leave_out_layers
from finetune.models.packing import Packing
from finetune.models.pixels import Pixels
from finetune.models.pooling import load_pooling
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.checks import check_head, has_unit_length
from finetune.models.st_format.config import Use, read_st_config
from finetune.models.st_format.write import trained_settings, write

_PATCH = 8  # a convolution's first maps are large: an image counts as its patches of so many pixels


class ImageEncoder(Encoder):
    """Images in, embeddings `(N, D)` in fp32 out.

    What the backbone says of a batch while training (batch norm) would depend on the micro-batch: its statistics are
    those it came with.

    Raises:
        ModelError: the model cannot be had, is damaged, needs code of its own, or has no safetensors weights.
    """

    reads: ClassVar[tuple[str, ...]] = ("image",)
    files: ClassVar[tuple[str, ...]] = ("config.json",)
    layout: ClassVar[Use] = "image"
    use = (
        "from finetune.models.image import ImageEncoder\n\n"
        'encoder = ImageEncoder("path/to/this/folder").eval()\n'
        "embeddings = encoder(torch.from_numpy(encoder.prepare(images, None)))  # images of Pillow"
    )

    def __init__(
        self,
        name: NotEmptyText,
        pooling: Literal["auto", "own", "mean", "cls", "max", "gem", "attention"] = "auto",
        normalize: bool | Literal["auto"] = "auto",
        head: Literal["linear", "mlp"] | None = None,
        output_width: PositiveInt | None = None,
        keep_layers: PositiveInt | None = None,
        dropout: Fraction | None = None,
        random_init: bool = False,
        allow_pickle: bool = False,
        crop: Fraction = 1.0,
        flip: Fraction = 0.0,
        color: NotNegative = 0.0,
    ) -> None:
        super().__init__()
        found = read_st_config(resolve(name, self.files, allow_pickle), self.layout)
        check_head(found, name, head is not None or output_width is not None)
        self.name, self._found = name, found
        self.backbone = load_backbone(found.backbone, name, dropout, random_init, allow_pickle=allow_pickle)
        if keep_layers is not None:
            leave_out_layers(self.backbone, keep_layers, name)
        self.pixels = Pixels(found.backbone, self.backbone.config, name, Augment(crop, flip, color))
        self._states_width, self.other_cost, own = _sizes(self.backbone, self.pixels)
        chosen = pooling if pooling != "auto" else found.pooling or own
        # None: what the model itself makes of its patches.
        self.pooling = load_pooling(chosen, self._states_width, found) if chosen != "own" else None
        if self.pooling is not None:
            _leave_out_unused(self.backbone)
        self._pooled = self._states_width * (len(self.pooling.modes) if self.pooling is not None else 1)
        self.head = nn.ModuleList(load_layers(found.layers, self._pooled, allow_pickle))
        self.head.extend(new_head(head_width(self.head, self._pooled), output_width, head))
        self.normalize, self.truncate = has_unit_length(found, normalize), found.settings.truncate_dim

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        width = head_width(self.head, self._pooled)
        return min(width, self.truncate or width)

    @property
    def hidden(self) -> int:
        """How many numbers stand for a patch between two layers."""
        return self._states_width

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set the mode of all modules but batch norms, which stay as they are used."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return the pixels `(N, 3, height, width)` of images of Pillow; in training augmented as asked."""
        return self.pixels(values, random)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, lookup: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed images, given as their pixels `(N, 3, height, width)`."""
        output = self.backbone(pixel_values=values)
        if self.pooling is None:
            pooled_ND = output.pooler_output.flatten(1)
        else:
            patches_NTD = _patches(output.last_hidden_state)
            lengths = np.full(len(values), patches_NTD.shape[1])
            pooled_ND = self.pooling(patches_NTD.flatten(0, 1), Packing(lengths, values.device))
        return projected(pooled_ND, self.head, self.normalize, self.truncate)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write backbone, preprocessing and head in the layout of sentence-transformers."""
        self.backbone.save_pretrained(folder)
        self.pixels.save(folder)
        settings = trained_settings(self._found, self.normalize, {})
        layers = cast(list[HeadLayer], list(self.head))
        write(folder, "Transformer", settings, None, self.normalize, self.pooling, self._states_width, layers)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps an image to {self.width} dimensions."


def _patches(states: Tensor) -> Tensor:
    """Return `(N, T, D)` of what a backbone makes of images: that, or maps `(N, D, height, width)`."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


@torch.no_grad()
def _sizes(backbone: Any, pixels_of: Pixels) -> tuple[int, int, str]:
    """Return the width of a patch, what an image costs in tokens, and the pooling that suits the backbone."""
    from PIL import Image

    training = backbone.training
    pixels = torch.from_numpy(pixels_of([Image.new("RGB", (64, 64))], None))
    output = backbone.eval()(pixel_values=pixels)
    backbone.train(training)
    states = output.last_hidden_state
    if states.ndim == 4:
        cost = pixels.shape[-1] * pixels.shape[-2] // _PATCH**2
        own = getattr(output, "pooler_output", None)
        return (
            states.shape[1],
            cost,
            "own" if own is not None and own.flatten(1).shape[1] == states.shape[1] else "mean",
        )
    marked = any(name.endswith("cls_token") for name, _ in backbone.named_parameters())
    return states.shape[2], states.shape[1], "cls" if marked else "mean"


def _leave_out_unused(backbone: nn.Module) -> None:
    # A pooler that is not used would cost optimizer memory and stop DDP.
    for name in ("pooler", "head"):
        unused = getattr(backbone, name, None)
        if isinstance(unused, nn.Module):
            unused.requires_grad_(False)
