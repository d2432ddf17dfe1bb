"""Items that are no texts, as the numbers that an encoder takes.

M of them.
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
# Turns what `modalities.load` gives into numbers (M, ...); the generator is there in training only.
Prepare = Callable[[Sequence[Any], np.random.Generator | None], Numbers]


class NonText:
    """Loaded and prepared each time they are asked for, since images would not fit into memory."""

    def __init__(self, items: Items, prepare: Prepare) -> None:
        self._first, self._part = len(items.texts), items.parts[1]
        self._prepare = prepare

    def take(self, items_M: Ints, random: np.random.Generator | None = None) -> Numbers:
        """Return the items with these numbers, none of them a text: `(M, ...)`.

        Raises:
            RunError: one cannot be read any more.
        """
        from finetune.data import modalities

        values = modalities.load(self._part, pa.array(items_M - self._first))
        # What is mapped from the cache cannot be written to, and torch does not like that.
        return np.require(self._prepare(values, random), np.float32, "W")
