"""The texts of items without the prompts that they begin with."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.holdout.text_normalization import strip_prompts
from finetune.data.items import ABSENT, Items


def bare_texts(items: Items, numbers: Ints, prompts: Sequence[str]) -> pa.Array:
    """Return the texts with these item numbers without `prompts`, in this order; null for -1."""
    return strip_prompts(items.texts.take(pa.array(numbers, mask=numbers == ABSENT)), prompts)
