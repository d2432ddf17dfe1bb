"""From images to the pixels that a model takes: augmentation, then the model's own preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune.errors import ModelError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

_DEFAULT_SIZE = 224
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Augment:
    """Random crops, horizontal flips and color changes.

    `crop` is the smallest part of the image's area that is kept, 1 for no crop (Szegedy et al. 2015,
    https://arxiv.org/abs/1409.4842); `flip` the probability of a flip; `color` the range in which brightness, contrast
    and saturation change, 0.4 is usual.
    """

    crop: float = 1.0
    flip: float = 0.0
    color: float = 0.0

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        """Return an augmented copy of the image."""
        from PIL import ImageEnhance, ImageOps

        if self.crop < 1:
            image = _random_crop(image, self.crop, random)
        if random.random() < self.flip:
            image = ImageOps.mirror(image)
        if self.color:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                factor = random.uniform(max(0.0, 1 - self.color), 1 + self.color)
                image = enhance(image).enhance(factor)
        return image


def _random_crop(image: Image, min_area: float, random: np.random.Generator) -> Image:
    """Return a random part with `min_area` to 1 of the area, its aspect ratio changed by up to the root of 4:3."""
    area = random.uniform(min_area, 1)
    ratio = np.exp(random.uniform(-1, 1) * np.log(4 / 3) / 2)
    width = max(1, round(image.width * min(1.0, np.sqrt(area) * ratio)))
    height = max(1, round(image.height * min(1.0, np.sqrt(area) / ratio)))
    left = random.integers(0, image.width - width + 1)
    top = random.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


class ImageProcessor:
    """Converts Pillow images to pixels `(N, 3, height, width)`, as the model in `folder` takes them.

    `config` is that of its backbone; error messages call it `name`.

    Raises:
        ModelError: its preprocessing is damaged.
    """

    def __init__(self, folder: Path, config: Any, name: str, augment: Augment) -> None:
        self._processor = _load_processor(folder, config, name)
        self._augment = augment

    def __call__(self, images: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return the pixels; `random` is given in training only, where images are augmented."""
        images = list(images)
        if random is not None:
            images = [self._augment(image, random) for image in images]
        pixels: npt.NDArray[np.float32] = self._processor(images=images, return_tensors="np")["pixel_values"]
        return pixels.astype(np.float32, copy=False)

    def save(self, folder: Path) -> None:
        """Write the preprocessing into a folder."""
        self._processor.save_pretrained(folder)


def _load_processor(folder: Path, config: Any, name: str) -> Any:
    """Return the image processor in `folder`, or a common one for a model whose folder has none."""
    from transformers import AutoImageProcessor

    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not any((folder / file).is_file() for file in _PROCESSOR_FILES):
        return _default_processor(config)
    try:
        # Pillow's version: torchvision's computes the same on a GPU, and is one more dependency.
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"model.name={name}: its image preprocessing cannot be read ({first_line(error)}).",
            "The folder must contain preprocessor_config.json, as save_pretrained writes it.",
        ) from error


def _default_processor(config: Any) -> Any:
    """Return a processor with the size of the model, and the mean and deviation of ImageNet, which are most common."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    size = getattr(config, "image_size", None) or _DEFAULT_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return ViTImageProcessorPil(
        size={"height": height, "width": width}, image_mean=_IMAGENET_MEAN, image_std=_IMAGENET_STD
    )
