"""How an image becomes the pixels that a model takes, by the model's own preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.errors import ModelError, first_line
from finetune.models.augment import Augment

_DEFAULT_SIZE = 224


class Pixels:
    """Turns images of Pillow into pixels `(N, 3, height, width)`, as the model in `folder` takes them.

    `config` is that of its backbone; messages call it `name`.

    Raises:
        ModelError: its preprocessing is damaged.
    """

    def __init__(self, folder: Path, config: Any, name: str, augment: Augment) -> None:
        self.processor = _load(folder, config, name)
        self._augment = augment

    def __call__(self, images: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return the pixels; `random` is there in training only, where images are augmented."""
        looks = list(images) if random is None else [self._augment(image, random) for image in images]
        pixels: npt.NDArray[np.float32] = self.processor(images=looks, return_tensors="np")["pixel_values"]
        return pixels.astype(np.float32, copy=False)

    def save(self, folder: Path) -> None:
        """Write the preprocessing into a folder."""
        self.processor.save_pretrained(folder)


def _load(folder: Path, config: Any, name: str) -> Any:
    """Return the image processor in `folder`, or the usual one for a model whose folder has none."""
    from transformers import AutoImageProcessor
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not any((folder / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")):
        size = getattr(config, "image_size", None) or _DEFAULT_SIZE
        height, width = (size, size) if isinstance(size, int) else size
        # The mean and deviation of ImageNet, as nearly all are trained with.
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        return ViTImageProcessorPil(size={"height": height, "width": width}, image_mean=mean, image_std=deviation)
    try:
        # By Pillow: torchvision's does the same on a GPU, and is one more thing to install.
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"model.name={name}: its image preprocessing cannot be read ({first_line(error)}).",
            "The folder must hold preprocessor_config.json, as save_pretrained writes it.",
        ) from error
