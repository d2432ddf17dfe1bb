"""An image encoder: a transformers or timm backbone, a pooling over its patches, a head, unit length.

Shapes: N images, T patches of all of them in a row, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmptyText, NotNegative, PositiveInt
from finetune.data.arrays import Ints
from finetune.models.backbone import freeze_unused, load_backbone
from finetune.models.backbone import keep_layers as remove_layers
from finetune.models.encoder import Encoder
from finetune.models.head import HeadLayer, apply_head, head_width, new_head
from finetune.models.image_processing import Augment, ImageProcessor
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import check_new_head, is_normalized, read_st_config
from finetune.models.st_format.load import load_layers, load_pooling
from finetune.models.st_format.settings import EncoderKind
from finetune.models.st_format.write import trained_settings, write

_PATCH = 8  # the first maps of a convolutional network are large: an image costs as much as its patches of 8 x 8 pixels


class ImageEncoder(Encoder):
    """Images in, embeddings `(N, D)` in fp32 out.

    Batch norm keeps the statistics of the pretrained backbone, also in training: those of a batch would depend on how
    it is cut into micro-batches.

    Raises:
        ModelError: the model is not found, is damaged, needs code of its own, or has no safetensors weights.
    """

    reads: ClassVar[tuple[str, ...]] = ("image",)
    files: ClassVar[tuple[str, ...]] = ("config.json",)
    layout: ClassVar[EncoderKind] = "image"
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
        st_config = read_st_config(resolve(name, self.files, allow_pickle), self.layout)
        check_new_head(st_config, name, head is not None or output_width is not None)
        self.name, self._st_config = name, st_config
        self.backbone = load_backbone(st_config.backbone, name, dropout, random_init, allow_pickle=allow_pickle)
        if keep_layers is not None:
            remove_layers(self.backbone, keep_layers, name)
        self.image_processor = ImageProcessor(
            st_config.backbone, self.backbone.config, name, Augment(crop, flip, color)
        )
        output = _example_output(self.backbone, self.image_processor)
        self._hidden_width, self.other_cost = output.width, output.cost
        mode: str = pooling
        if pooling == "auto":
            mode = st_config.pooling or output.pooling
        # None: the pooling of the model itself.
        self.pooling = load_pooling(mode, self._hidden_width, st_config) if mode != "own" else None
        self._pooled_width = self._hidden_width
        if self.pooling is not None:
            self._pooled_width *= len(self.pooling.modes)
            freeze_unused(self.backbone, "pooler", "head")
        self.head = nn.ModuleList(load_layers(st_config.layers, self._pooled_width, allow_pickle))
        self.head.extend(new_head(head_width(self.head, self._pooled_width), output_width, head))
        self.normalize, self.truncate = is_normalized(st_config, normalize), st_config.settings.truncate_dim

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        width = head_width(self.head, self._pooled_width)
        return min(width, self.truncate or width)

    @property
    def hidden(self) -> int:
        """The width of the hidden states, per patch."""
        return self._hidden_width

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set the mode of all modules except batch norms, which stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return the pixels `(N, 3, height, width)` of Pillow images, augmented in training."""
        return self.image_processor(values, random)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed images, given as pixels `(N, 3, height, width)`."""
        output = self.backbone(pixel_values=values)
        if self.pooling is None:
            pooled_ND = output.pooler_output.flatten(1)
        else:
            patches_NTD = _patches(output.last_hidden_state)
            lengths = np.full(len(values), patches_NTD.shape[1])
            pooled_ND = self.pooling(patches_NTD.flatten(0, 1), Packing(lengths, values.device))
        return apply_head(pooled_ND, self.head, self.normalize, self.truncate)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write backbone, preprocessing and head in the folder format of sentence-transformers."""
        self.backbone.save_pretrained(folder)
        self.image_processor.save(folder)
        settings = trained_settings(self._st_config, self.normalize, {})
        layers = cast(list[HeadLayer], list(self.head))
        write(folder, "Transformer", settings, None, self.normalize, self.pooling, self._hidden_width, layers)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps an image to {self.width} dimensions."


def _patches(states: Tensor) -> Tensor:
    """Return hidden states as `(N, T, D)`; a convolutional backbone returns maps `(N, D, height, width)`."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


@dataclass(frozen=True)
class _Output:
    """The width of a patch, the cost of an image in tokens, and the pooling that suits the backbone."""

    width: int
    cost: int
    pooling: str


@torch.no_grad()
def _example_output(backbone: Any, image_processor: ImageProcessor) -> _Output:
    """Encode one image."""
    from PIL import Image

    training = backbone.training
    pixels = torch.from_numpy(image_processor([Image.new("RGB", (64, 64))], None))
    output = backbone.eval()(pixel_values=pixels)
    backbone.train(training)
    states = output.last_hidden_state
    if states.ndim == 4:
        width, cost = states.shape[1], pixels.shape[-1] * pixels.shape[-2] // _PATCH**2
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and pooled.flatten(1).shape[1] == width:
            return _Output(width, cost, "own")
        return _Output(width, cost, "mean")
    has_cls = any(name.endswith("cls_token") for name, _ in backbone.named_parameters())
    return _Output(states.shape[2], states.shape[1], "cls" if has_cls else "mean")
