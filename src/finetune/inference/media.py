"""Items that are not texts, as an encoder takes them: images, point clouds and vectors.

M items of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.data.arrays import Ints
from finetune.errors import FinetuneError, RunError
from finetune.models.encoder import Encoder


class Media:
    """Loads and prepares items when a micro-batch needs them, since all images would not fit into memory."""

    def __init__(self, items: Sequence[Any], encoder: Encoder, first: int = 0) -> None:
        self._items, self._encoder, self._first = items, encoder, first
        self._load = _image if "image" in encoder.reads else _numbers

    def __len__(self) -> int:
        return len(self._items)

    def take(self, items_M: Ints) -> NDArray[np.float32]:
        """Return the items with these numbers as the encoder takes them, `(M, ...)`.

        Raises:
            FinetuneError: one is no image, or no array of finite numbers; they have several shapes.
        """
        values = [self._load(self._items[item], f"items[{self._first + int(item)}]") for item in items_M]
        try:
            return np.require(self._encoder.prepare(values, None), np.float32, "W")
        except ValueError as error:
            raise FinetuneError(f"the items have several shapes ({error}).", "Give items of one shape.") from error


def is_image(item: Any) -> bool:
    """Return whether an item of a model of texts and images is an image; a text is never taken for a path."""
    return isinstance(item, Path | bytes | np.ndarray) or hasattr(item, "convert")


def _image(item: Any, where: str) -> Any:
    """Return an image of Pillow in RGB, given as one, as an array, as a path, or as the bytes of a file."""
    from finetune.data.modalities import image

    if hasattr(item, "convert"):
        return image.upright_rgb(item)
    if isinstance(item, np.ndarray):
        return _from_array(item, where)
    if not isinstance(item, str | Path | bytes):
        raise FinetuneError(f"{where} is a {type(item).__name__}, not an image.", _IMAGE_ADVICE)
    reference = image.data_uri(item) if isinstance(item, bytes) else str(item)
    try:
        return image.load(pa.array([reference], pa.large_string()))[0]
    except RunError as error:
        raise FinetuneError(f"{where}: {error.what}", _IMAGE_ADVICE) from error


_IMAGE_ADVICE = "Give images of Pillow, paths, bytes of files, or arrays (height, width, 3) of uint8."


def _from_array(item: NDArray[Any], where: str) -> Any:
    from PIL import Image

    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
        raise FinetuneError(f"{where} is an array {item.shape} of {item.dtype}, not an image.", _IMAGE_ADVICE)
    return Image.fromarray(item)


def _numbers(item: Any, where: str) -> NDArray[np.float32]:
    try:
        numbers = np.asarray(item, np.float32)
    except (TypeError, ValueError) as error:
        what = f"{where} is a {type(item).__name__}, and this model reads arrays of numbers."
        raise FinetuneError(what, "Give one array for each item.") from error
    if not np.isfinite(numbers).all():
        raise FinetuneError(f"{where} has numbers that are not finite (NaN or infinite).", "Leave such items out.")
    return numbers
