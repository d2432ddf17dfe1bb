"""Sequences of tokens in one row, one after the other: where each begins, and how they look padded.

Shapes: T tokens of all sequences, n sequences, t the longest of them, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.data.arrays import Ints


@dataclass(frozen=True)
class Run:
    """`count` neighbouring sequences of one `length`, from token `start` on."""

    start: int
    count: int
    length: int

    @property
    def tokens(self) -> slice:
        """Their tokens in the row."""
        return slice(self.start, self.start + self.count * self.length)


class Packing:
    """Where the sequences of a row of tokens begin and end. What decides shapes stays on the CPU: nothing waits.

    `lengths` of each sequence · `longest` of them · `bounds` where each begins and the last ends, `(n + 1,)` int32 on
    `device` · `runs` neighbours of equal length.
    """

    def __init__(self, lengths: Ints, device: torch.device) -> None:
        self.lengths = lengths
        self.longest = int(lengths.max())
        self.device = device
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        self.bounds = self._to_device(self._bounds.astype(np.int32))

    @property
    def runs(self) -> Sequence[Run]:
        """The sequences as runs of equal length; sorted by length they make the fewest."""
        firsts = np.flatnonzero(np.diff(self.lengths, prepend=0))
        counts = np.diff(np.append(firsts, len(self.lengths)))
        return [Run(int(self._bounds[i]), int(n), int(self.lengths[i])) for i, n in zip(firsts, counts, strict=True)]

    def positions(self) -> Tensor:
        """Return the place of each token in its sequence, from 0: `(T,)`."""
        return self._to_device(np.arange(self._bounds[-1]) - np.repeat(self._bounds[:-1], self.lengths))

    def owners(self) -> Tensor:
        """Return the number of the sequence that each token belongs to: `(T,)`."""
        return self._to_device(np.repeat(np.arange(len(self.lengths)), self.lengths))

    def mask(self) -> Tensor:
        """Return which places of the padded sequences hold a token: `(n, t)` booleans."""
        return self._to_device(np.arange(self.longest) < self.lengths[:, None])

    def pad(self, row: Tensor) -> Tensor:
        """Return a row `(T, ...)` as padded sequences `(n, t, ...)`; padding repeats the row's first token."""
        places_nt = self._bounds[:-1, None] + np.arange(self.longest)
        return row[self._to_device(np.where(np.arange(self.longest) < self.lengths[:, None], places_nt, 0))]

    def unpad(self, padded: Tensor) -> Tensor:
        """Return padded sequences `(n, t, ...)` as a row `(T, ...)`."""
        return padded[self.owners(), self.positions()]

    def _to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)
