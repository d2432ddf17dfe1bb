"""Sequences of tokens concatenated in one row: where each begins, and conversion to and from padded sequences.

Shapes: T tokens of all sequences, n sequences, t the longest of them, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.data.arrays import Ints
from finetune.data.batching.batch import copy_to
from finetune.models.micro_batching import optimal_cuts


def upload(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to `device` without synchronization."""
    return copy_to(torch.from_numpy(values), device)


class Group:
    """Adjacent sequences whose attention is computed together, padded to the longest of them.

    `start` is the position of their first token in the row, `lengths` the tokens of each, `longest` the maximum,
    `tokens` the sum; `padding_nt` marks padding, `None` if there is none.
    Shapes: P parts of a token's row (query, key and value next to each other, or one of them), H heads.
    """

    def __init__(self, start: int, lengths: Ints) -> None:
        self.start = start
        self.lengths = lengths
        self.longest = int(lengths.max())
        self.tokens = int(lengths.sum())
        self.padding_nt = None if int(lengths.min()) == self.longest else self._padding()
        self._gather: dict[tuple[int, int], Tensor] = {}
        self._scatter: dict[tuple[int, int], Tensor] = {}

    def gather_index(self, heads: int, parts: int = 1) -> Tensor:
        """Return which rows of `(T * P * H, d)` make the padded heads `(P, n, H, t, d)`; padding repeats a token.

        One `index_select` with it pads and transposes in one pass.
        """
        if (heads, parts) not in self._gather:
            position_t = np.arange(self.longest)
            token_nt = self._first()[:, None] + np.where(position_t < self.lengths[:, None], position_t, 0)
            offset_PH = np.arange(parts * heads).reshape(parts, 1, heads, 1)
            rows = (self.start + token_nt)[None, :, None, :] * (parts * heads) + offset_PH
            self._gather[heads, parts] = torch.from_numpy(rows.ravel().astype(np.int32))
        return self._gather[heads, parts]

    def scatter_index(self, heads: int, parts: int = 1) -> Tensor:
        """Return which rows of the padded heads `(P, n, H, t, d)` belong to its tokens, `(tokens, P, H, d)`."""
        if (heads, parts) not in self._scatter:
            sequence_T = np.repeat(np.arange(len(self.lengths)), self.lengths)
            position_T = np.arange(self.tokens) - self._first()[sequence_T]
            part_P, head_H = np.arange(parts)[:, None], np.arange(heads)
            sequence = part_P * len(self.lengths) + sequence_T[:, None, None]
            rows = (sequence * heads + head_H) * self.longest + position_T[:, None, None]
            self._scatter[heads, parts] = torch.from_numpy(rows.ravel().astype(np.int32))
        return self._scatter[heads, parts]

    def _padding(self) -> Tensor:
        return torch.from_numpy(np.arange(self.longest) >= self.lengths[:, None])

    def _first(self) -> Ints:
        first: Ints = np.cumsum(self.lengths) - self.lengths
        return first


class Packing:
    """Where the sequences of a row of tokens begin and end. Shapes are computed on the CPU: the device never
    synchronizes.

    `lengths` of the sequences · `longest` of them · `bounds` of the sequences, `(n + 1,)` int32 on `device`.
    """

    def __init__(self, lengths: Ints, device: torch.device) -> None:
        self.lengths = lengths
        self.longest = int(lengths.max())
        self.device = device
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        self._groups: dict[tuple[int, int], list[Group]] = {}
        self.bounds = upload(self._bounds.astype(np.int32), device)

    def groups(self, call_cost: int, budget: int) -> list[Group]:
        """Return the sequences in the cheapest groups, where a sequence costs the square of the longest in its group.

        A group costs `call_cost` more, and is at most `budget` squares or a single sequence. Sequences sorted by length
        are cheapest. The result is cached for all layers.
        """
        if (call_cost, budget) not in self._groups:
            parts = np.split(np.arange(len(self.lengths)), optimal_cuts(self.lengths, budget, call_cost, power=2))
            self._groups[call_cost, budget] = [Group(int(self._bounds[part[0]]), self.lengths[part]) for part in parts]
        return self._groups[call_cost, budget]

    def positions(self) -> Tensor:
        """Return the position of each token in its sequence, from 0: `(T,)`."""
        return upload(np.arange(self._bounds[-1]) - np.repeat(self._bounds[:-1], self.lengths), self.device)

    def owners(self) -> Tensor:
        """Return the index of the sequence of each token: `(T,)`."""
        return upload(np.repeat(np.arange(len(self.lengths)), self.lengths), self.device)

    def mask(self) -> Tensor:
        """Return which positions of the padded sequences are tokens: `(n, t)` booleans."""
        return upload(np.arange(self.longest) < self.lengths[:, None], self.device)

    def pad(self, row: Tensor) -> Tensor:
        """Return a row `(T, ...)` as padded sequences `(n, t, ...)`; padding repeats the row's first token."""
        index_nt = self._bounds[:-1, None] + np.arange(self.longest)
        index_nt = np.where(np.arange(self.longest) < self.lengths[:, None], index_nt, 0)
        return row[upload(index_nt, self.device)]

    def pad_ids(self, ids_T: Tensor, pad_id: int) -> tuple[Tensor, Tensor | None]:
        """Return token ids as padded sequences `(n, t)`, and which of them are tokens; `None` if all are.

        Attention is faster without any mask.
        """
        if self.lengths.min() == self.longest:
            return ids_T.reshape(-1, self.longest), None
        mask_nt = self.mask()
        return self.pad(ids_T).masked_fill(~mask_nt, pad_id), mask_nt.long()

    def unpad(self, padded: Tensor) -> Tensor:
        """Return padded sequences `(n, t, ...)` as a row `(T, ...)`."""
        return padded[self.owners(), self.positions()]
