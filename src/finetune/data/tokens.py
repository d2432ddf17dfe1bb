"""Tokens: the token ids of every item, made once and kept flat.

N items, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.items import Items

CHUNK_TEXTS = 4096  # texts at a time: enough to keep all cores busy, few enough for a progress bar to move

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Tokens:
    """Token ids of all items: those of item `i` are `ids[offsets[i]:offsets[i + 1]]`, `truncated` counts cut texts."""

    ids: TokenIds
    offsets: Ints
    truncated: int = 0

    @classmethod
    def build(
        cls, items: Items, tokenizer: Any, max_length: int, progress: Callable[[int, int], None] | None = None
    ) -> Tokens:
        """Tokenise every item, special tokens included, cut to `max_length` tokens.

        `tokenizer` is a fast tokenizer of transformers; `progress` is called with (texts done, texts in all).
        """
        ids, lengths, truncated = [], [], 0
        for start in range(0, len(items), CHUNK_TEXTS):
            texts = items.texts.slice(start, CHUNK_TEXTS).to_pylist()
            encoded = tokenizer(
                texts,
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            rows = encoded["input_ids"]
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            ids.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
            truncated += _count_truncated(encoded, lengths[-1], max_length)
            if progress:
                progress(start + len(texts), len(items))
        offsets = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
        return cls(np.concatenate([np.empty(0, np.int32), *ids]), offsets, truncated)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Tokens of each item, (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: Ints) -> tuple[TokenIds, Ints]:
        """Return the ids of these items one after the other, (T,), and how many each has."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        return self.ids[flat_ranges(starts, lengths)], lengths

    def facts(self) -> dict[str, int | float]:
        """Return the numbers that a report shows."""
        lengths = self.lengths
        return {
            "tokens": len(self.ids),
            "mean_tokens": round(float(lengths.mean()), 1) if len(self) else 0.0,
            "longest_text_tokens": int(lengths.max(initial=0)),
            "truncated_texts": self.truncated,
            "truncated_share": round(self.truncated / max(1, len(self)), 4),
        }


def _count_truncated(encoded: Any, lengths: Ints, max_length: int) -> int:
    # A text of just `max_length` tokens looks cut and is not: only what overflowed tells.
    return sum(bool(encoded.encodings[row].overflowing) for row in np.flatnonzero(lengths == max_length))
