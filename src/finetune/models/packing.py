"""Sequences of tokens in one row, one after the other: where each begins, and how they look padded.

Shapes: T tokens of all sequences, n sequences, t the longest of them, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.data.arrays import Ints
from finetune.models.cutting import cheapest


def upload(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array of the CPU as a tensor on `device`, which nothing waits for."""
    tensor = torch.from_numpy(values)
    # From pageable memory a copy waits for all that the device has to do before.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def hidden(dtype: torch.dtype) -> float:
    """Return the logit of a key that must not be seen: no weight after the softmax, and no NaN where all are hidden."""
    return torch.finfo(dtype).min / 2


class Group:
    """Neighbouring sequences that are computed together, padded to the longest of them where they differ.

    `start` their first token in the row · `lengths` of each · `longest` of them.
    """

    def __init__(self, start: int, lengths: Ints) -> None:
        self.start = start
        self.lengths = lengths
        self.longest = int(lengths.max())
        self._packing = None if lengths.min() == self.longest else Packing(lengths, torch.device("cpu"))

    def take(self, row: Tensor, padding: float | None = None) -> Tensor:
        """Return the group's part of a row `(T, ...)` as `(n, t, ...)`; padding is any number unless one is given."""
        part = row[self.start : self.start + int(self.lengths.sum())]
        if self._packing is None:
            return part.view(len(self.lengths), self.longest, *row.shape[1:])
        padded = self._packing.pad(part)
        if padding is not None:
            padded[~self._packing.mask()] = padding
        return padded

    def put(self, padded: Tensor, row: Tensor) -> None:
        """Write `(n, t, ...)` to the group's part of a row `(T, ...)`."""
        part = row[self.start : self.start + int(self.lengths.sum())]
        if self._packing is None:
            part.view(padded.shape).copy_(padded)
        else:
            part.copy_(self._packing.unpad(padded))

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """Return what to add to logits `(n, H, t, t)` so that no query sees padding, `None` where there is none."""
        if self._packing is None:
            return None
        bias_nt = torch.zeros(len(self.lengths), self.longest, dtype=dtype)
        return bias_nt.masked_fill_(~self._packing.mask(), hidden(dtype))[:, None, None, :]


class Packing:
    """Where the sequences of a row of tokens begin and end. What decides shapes stays on the CPU: nothing waits.

    `lengths` of each sequence · `longest` of them · `bounds` where each begins and the last ends, `(n + 1,)` int32 on
    `device`.
    """

    def __init__(self, lengths: Ints, device: torch.device) -> None:
        self.lengths = lengths
        self.longest = int(lengths.max())
        self.device = device
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        self._groups: list[Group] | None = None
        self.bounds = upload(self._bounds.astype(np.int32), device)

    def groups(self, call_cost: int, most: int) -> list[Group]:
        """Return the sequences in groups, cheapest for what costs a sequence the square of the longest in its group.

        A group costs `call_cost` more and holds at most `most` squares, or a single sequence. They are cheapest sorted
        by length, and found once: all layers of a model ask for the same.
        """
        if self._groups is None:
            parts = np.split(np.arange(len(self.lengths)), cheapest(self.lengths, most, call_cost, power=2))
            self._groups = [Group(int(self._bounds[part[0]]), self.lengths[part]) for part in parts]
        return self._groups

    def positions(self) -> Tensor:
        """Return the place of each token in its sequence, from 0: `(T,)`."""
        return upload(np.arange(self._bounds[-1]) - np.repeat(self._bounds[:-1], self.lengths), self.device)

    def owners(self) -> Tensor:
        """Return the number of the sequence that each token belongs to: `(T,)`."""
        return upload(np.repeat(np.arange(len(self.lengths)), self.lengths), self.device)

    def mask(self) -> Tensor:
        """Return which places of the padded sequences hold a token: `(n, t)` booleans."""
        return upload(np.arange(self.longest) < self.lengths[:, None], self.device)

    def pad(self, row: Tensor) -> Tensor:
        """Return a row `(T, ...)` as padded sequences `(n, t, ...)`; padding repeats the row's first token."""
        places_nt = self._bounds[:-1, None] + np.arange(self.longest)
        places_nt = np.where(np.arange(self.longest) < self.lengths[:, None], places_nt, 0)
        return row[upload(places_nt, self.device)]

    def unpad(self, padded: Tensor) -> Tensor:
        """Return padded sequences `(n, t, ...)` as a row `(T, ...)`."""
        return padded[self.owners(), self.positions()]
