"""Another look at an image each time it is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Augment:
    """Random crops, mirror images and colours.

    `crop` is the least share of the image's area that is looked at, 1 for all of it (Szegedy et al. 2015,
    https://arxiv.org/abs/1409.4842); `flip` how often an image is mirrored; `color` how far brightness, contrast and
    saturation go up or down, 0.4 is usual.
    """

    crop: float = 1.0
    flip: float = 0.0
    color: float = 0.0

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        """Return an image that shows the same."""
        from PIL import ImageEnhance, ImageOps

        if self.crop < 1:
            image = _cropped(image, self.crop, random)
        if random.random() < self.flip:
            image = ImageOps.mirror(image)
        if self.color:
            for way in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = way(image).enhance(random.uniform(max(0.0, 1 - self.color), 1 + self.color))
        return image


def _cropped(image: Image, least: float, random: np.random.Generator) -> Image:
    """Return a part of `least` to all of the area, its sides at most 4:3 to each other more than the image's."""
    share, ratio = random.uniform(least, 1), np.exp(random.uniform(-1, 1) * np.log(4 / 3) / 2)
    width = max(1, round(image.width * min(1.0, np.sqrt(share) * ratio)))
    height = max(1, round(image.height * min(1.0, np.sqrt(share) / ratio)))
    left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))
