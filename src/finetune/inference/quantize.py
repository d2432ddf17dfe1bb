"""Embeddings in fewer bytes, with the values of `quantize_embeddings` of sentence-transformers.

`int8`: each dimension in 256 steps between the lowest and the highest value that calibration found for it, int8
`(N, D)`. `binary`: the signs, eight dimensions in a byte, int8 `(N, D / 8)`, rounded up.

Shapes: N items, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.errors import FinetuneError

Floats = NDArray[np.float32]
Precision = Literal["float32", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_FEWEST = 2  # embeddings from which ranges can be made


def checked_precision(precision: Any) -> Precision:
    """Return the name of a precision.

    Raises:
        FinetuneError: there is none of this name.
    """
    if precision not in PRECISIONS:
        raise FinetuneError(f"precision={precision!r} is unknown.", f"Choose one of {', '.join(PRECISIONS)}.")
    checked: Precision = precision
    return checked


def quantize(emb_ND: Floats, precision: Precision, ranges_2D: Floats | None = None) -> NDArray[Any]:
    """Return embeddings in a precision; `ranges_2D`, the lowest and the highest values, are for `int8` only."""
    if precision == "float32":
        return emb_ND
    if precision == "binary":
        return (np.packbits(emb_ND > 0, axis=-1).astype(np.int16) - 128).astype(np.int8)
    assert ranges_2D is not None
    step_D = (ranges_2D[1] - ranges_2D[0]) / 255
    step_D = np.where(step_D == 0, 1, step_D)
    steps_ND: NDArray[Any] = np.clip(np.floor((emb_ND - ranges_2D[0]) / step_D), 0, 255) - 128
    return steps_ND.astype(np.int8)


def ranges_of(emb_ND: Floats) -> Floats:
    """Return the lowest and the highest value of each dimension, `(2, D)`, for `quantize` to int8.

    Raises:
        FinetuneError: there are fewer than two embeddings.
    """
    if len(emb_ND) < _FEWEST:
        what = f"int8 needs the range of each dimension, which {len(emb_ND)} embeddings do not show."
        advice = "Call model.calibrate(texts) with some hundred typical texts first, or choose another precision."
        raise FinetuneError(what, advice)
    return np.stack([emb_ND.min(axis=0), emb_ND.max(axis=0)])


def stored_width(dimensions: int, precision: Precision) -> int:
    """Return how many numbers an embedding has in this precision."""
    return -(-dimensions // 8) if precision == "binary" else dimensions


def dtype_of(precision: Precision) -> type[np.generic]:
    """Return the type of the numbers of an embedding in this precision."""
    return np.float32 if precision == "float32" else np.int8
