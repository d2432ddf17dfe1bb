"""Encoders of texts and images into one space: CLIP, SigLIP and similar models, or two separate towers.

Shapes: N items, T tokens of all texts in a row, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmptyText, NotNegative, PositiveInt
from finetune.data.arrays import Ints
from finetune.errors import ModelError
from finetune.models import checkpoint
from finetune.models.backbone import load_backbone
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder
from finetune.models.head import apply_head
from finetune.models.image import ImageEncoder
from finetune.models.image_processing import Augment, ImageProcessor
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import check_backbone_only, is_normalized, read_st_config
from finetune.models.st_format.settings import EncoderKind, TransformerSettings
from finetune.models.st_format.write import trained_settings, write
from finetune.models.text import TextEncoder
from finetune.models.tokenizer import check_vocabulary, load_tokenizer, save_tokenizer

_NO_HEAD = nn.ModuleList()


class TextImageEncoder(Encoder):
    """Texts or images in, embeddings `(N, D)` in fp32 out, by the two towers of one model (CLIP, SigLIP, ...).

    Raises:
        ModelError: the model is not found, is damaged, has no two towers, or has no safetensors weights.
    """

    reads: ClassVar[tuple[str, ...]] = ("text", "image")
    packs = False
    layout: ClassVar[EncoderKind] = "text_image"

    def __init__(
        self,
        name: NotEmptyText,
        normalize: bool | Literal["auto"] = "auto",
        dropout: Fraction | None = None,
        random_init: bool = False,
        allow_pickle: bool = False,
        crop: Fraction = 1.0,
        flip: Fraction = 0.0,
        color: NotNegative = 0.0,
    ) -> None:
        super().__init__()
        st_config = read_st_config(resolve(name, self.files, allow_pickle), self.layout)
        check_backbone_only(st_config, name)
        folder, self._st_config = st_config.backbone, st_config
        self.name, self.normalize = name, is_normalized(st_config, normalize)
        self.backbone = load_backbone(folder, name, dropout, random_init, allow_pickle=allow_pickle)
        if not hasattr(self.backbone, "get_image_features"):
            raise ModelError(
                f"model.name={name}: a {type(self.backbone).__name__} does not embed both texts and images.",
                "Use a model such as CLIP or SigLIP, or model=two_towers for one of each kind.",
            )
        self.tokenizer = load_tokenizer(folder, name, st_config.transformer.lower_case)
        check_vocabulary(self.tokenizer, self.backbone.config.text_config.vocab_size, name)
        config, vision = self.backbone.config, self.backbone.config.vision_config
        self.image_processor = ImageProcessor(folder, vision, name, Augment(crop, flip, color))
        # SigLIP was trained on texts that are padded to a fixed length, without a mask.
        self._pads_to = config.text_config.max_position_embeddings if config.model_type.startswith("siglip") else None
        for unused in ("logit_scale", "logit_bias"):
            if hasattr(self.backbone, unused):
                getattr(self.backbone, unused).requires_grad_(False)  # the loss has its own
        replace_dropout(self.backbone)
        self.other_cost = (vision.image_size // vision.patch_size) ** 2 + 1

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        config = self.backbone.config
        return int(getattr(config, "projection_dim", None) or config.text_config.projection_size)

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The id of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    def _config(self) -> Any:
        """Return the config of the wider tower."""
        config = self.backbone.config
        return max(config.text_config, config.vision_config, key=lambda part: part.hidden_size)

    def token_embedding(self) -> None:
        """Return `None`: the towers take token ids, and embed them themselves."""

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return the pixels `(N, 3, height, width)` of Pillow images, augmented in training."""
        return self.image_processor(values, random)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed texts, given as one row of token ids and their lengths, or images, given as pixels."""
        if lengths_N is None:
            output = self.backbone.get_image_features(pixel_values=values)
        else:
            ids_nt, mask_nt = Packing(lengths_N, values.device).pad_ids(values, self.pad_id)
            if self._pads_to:
                ids_nt = nn.functional.pad(ids_nt, (0, self._pads_to - ids_nt.shape[1]), value=self.pad_id)
                mask_nt = None
            output = self.backbone.get_text_features(input_ids=ids_nt, attention_mask=mask_nt)
        return apply_head(getattr(output, "pooler_output", output), _NO_HEAD, self.normalize)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a sentence-transformers folder."""
        self.backbone.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder)
        self.image_processor.save(folder)
        original = self._st_config.transformer
        extra = dict(original.extra)
        if self._pads_to:
            extra["processing_kwargs"] = {"text": {"padding": "max_length", "max_length": self._pads_to}}
        transformer = TransformerSettings(max_length, original.lower_case, extra)
        settings = trained_settings(self._st_config, self.normalize, prompts)
        write(folder, "CLIPModel", settings, transformer, self.normalize)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps images, and texts of up to {max_length} tokens, to {self.width} dimensions."


class TwoTowers(Encoder):
    """Texts or images in, embeddings `(N, D)` in fp32 out, by an encoder for each, followed by a learned projection.

    `name` is the folder of a saved encoder, for its projections; its towers are in `text` and `image` there.

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, whose towers were trained together from the start.
    """

    reads: ClassVar[tuple[str, ...]] = ("text", "image")
    use = (
        "from finetune.models.text_image import TwoTowers\n\n"
        'encoder = TwoTowers.load("path/to/this/folder").eval()\n'
        "embeddings = encoder(torch.from_numpy(encoder.prepare(images, None)))  # images of Pillow"
    )

    def __init__(
        self,
        text: nn.Module,
        image: nn.Module,
        output_width: PositiveInt = 256,
        normalize: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.text, self.image = cast(TextEncoder, text), cast(ImageEncoder, image)
        if name is not None:
            output_width = checkpoint.read_settings(name, "ModuleDict")["output_width"]
        self.name, self.normalize = name or f"{text.name} and {image.name}", normalize
        self.text.normalize = self.image.normalize = False  # the length is an input of the projections
        widths = {"text": self.text.width, "image": self.image.width}
        projections = {tower: nn.Linear(width, output_width, bias=False) for tower, width in widths.items()}
        self.project = nn.ModuleDict(projections)
        for weight in self.project.parameters():
            nn.init.orthogonal_(weight)
        if name is not None:
            checkpoint.load(name, self.project)
        self._width = output_width
        self.tokenizer, self.packs, self.other_cost = self.text.tokenizer, self.text.packs, self.image.other_cost

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        return self._width

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The id of the padding token."""
        return self.text.pad_id

    def _config(self) -> Any:
        return self.text.backbone.config

    def backbones(self) -> list[Any]:
        """Return the pretrained models inside."""
        return [self.text.backbone, self.image.backbone]

    def token_embedding(self) -> SharedGradEmbedding:
        """Return the embedding lookup for the tokens of one step."""
        return self.text.token_embedding()

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return the pixels of Pillow images, as the image tower takes them."""
        return self.image.prepare(values, random)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed texts, given as one row of token ids and their lengths, or images, given as pixels."""
        if lengths_N is None:
            emb_ND = self.project["image"](self.image(values))
        else:
            emb_ND = self.project["text"](self.text(values, lengths_N, token_embedding))
        return apply_head(emb_ND, _NO_HEAD, self.normalize)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write each tower into a folder of its own, and the projections next to them."""
        for name, tower in (("text", self.text), ("image", self.image)):
            (folder / name).mkdir()
            tower.save(folder / name, max_length, prompts)
        checkpoint.save(folder, self.project, {"output_width": self.width})

    @classmethod
    def load(cls, folder: str) -> TwoTowers:
        """Return the encoder that `save` wrote.

        Raises:
            ModelError: it cannot be read.
        """
        return cls(TextEncoder(f"{folder}/text"), ImageEncoder(f"{folder}/image"), name=folder)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps images, and texts of up to {max_length} tokens, to {self.width} dimensions."
