"""How an image becomes the pixels that a model takes, by the model's own preprocessing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from finetune.errors import ModelError, first_line

_DEFAULT_SIZE = 224


def load_processor(folder: Path, config: Any, name: str) -> Any:
    """Return the image processor in `folder`, or the usual one for a model whose folder has none.

    Raises:
        ModelError: it is damaged.
    """
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
