"""Items that are not text, as the numbers that an encoder takes.

M items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.items import Items

Numbers = npt.NDArray[np.float32]
# Turns what `modalities.load` returns into numbers (M, ...); the generator is only given in training.
Prepare = Callable[[Sequence[Any], np.random.Generator | None], Numbers]


class NonText:
    """Loads and prepares items on every request, since all images would not fit into memory."""

    def __init__(self, items: Items, prepare: Prepare) -> None:
        self._first, self._part = len(items.texts), items.parts[1]
        self._prepare = prepare

    def take(self, items_M: Ints, random: np.random.Generator | None = None) -> Numbers:
        """Return the items with these numbers, none of them a text: `(M, ...)`.

        Raises:
            RunError: an item can no longer be read.
        """
        from finetune.data import modalities

        values = modalities.load(self._part, pa.array(items_M - self._first))
        # Arrays mapped from the cache are read-only, which torch warns about.
        return np.require(self._prepare(values, random), np.float32, "W")
