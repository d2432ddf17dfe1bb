"""Sequences of tokens concatenated in one row: where each begins, and conversion to and from padded sequences.

Shapes: T tokens of all sequences, n sequences, t the longest of them, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune import devices
from finetune.data.arrays import Ints
from finetune.models.micro_batching import optimal_cuts


def upload(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to `device` without synchronization."""
    return devices.of(device).upload(values)


# The rows of a block of a GPU's attention: a lower bound of the longest sequence would launch as many blocks.
_MIN_BOUND = 64


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

    @cached_property
    def padded_rows(self) -> Tensor:
        """Which of its tokens makes each position of the padded sequences, `(n * t,)`; padding repeats the first."""
        position_t = np.arange(self.longest)
        token_nt = self._first()[:, None] + np.where(position_t < self.lengths[:, None], position_t, 0)
        return torch.from_numpy(token_nt.ravel().astype(np.int32))

    @cached_property
    def token_rows(self) -> Tensor:
        """Which position of the padded sequences `(n * t,)` is each of its tokens."""
        return torch.from_numpy(np.flatnonzero(np.arange(self.longest) < self.lengths[:, None]).astype(np.int32))

    def _padding(self) -> Tensor:
        return torch.from_numpy(np.arange(self.longest) >= self.lengths[:, None])

    def _first(self) -> Ints:
        first: Ints = np.cumsum(self.lengths) - self.lengths
        return first


class Packing:
    """Where the sequences of a row of tokens begin and end. Shapes are computed on the CPU: the device never
    synchronizes.

    `lengths` of the sequences · `longest` of them · `longest_bound`, which is not less and has few different values ·
    `bounds` of the sequences, `(n + 1,)` int32 on `device`.
    """

    def __init__(self, lengths: Ints, device: torch.device) -> None:
        self.lengths = lengths
        self.longest = int(lengths.max())
        # A power of two, because code that reads it is compiled again for each value.
        self.longest_bound = max(_MIN_BOUND, 1 << (self.longest - 1).bit_length())
        self.device = device
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        self._groups: dict[tuple[int, int], list[Group]] = {}
        self.bounds = upload(self._bounds.astype(np.int32), device)

    @property
    def on_cpu(self) -> bool:
        """Whether the computation is that for a CPU: attention in groups, fused layers, rows of padding at the end."""
        return self.device.type == "cpu"

    def parts(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of at most `size` sequences at a time, and the bounds of these from the first of the rows."""
        for start in range(0, len(self.lengths), size):
            stop = min(start + size, len(self.lengths))
            first, last = int(self._bounds[start]), int(self._bounds[stop])
            yield slice(first, last), self.bounds[start : stop + 1] - first

    def groups(self, call_cost: int, budget: int) -> list[Group]:
        """Return the sequences in the cheapest groups, where a sequence costs the square of the longest in its group.

        A group costs `call_cost` more, and is at most `budget` squares or a single sequence. Sequences sorted by length
        are cheapest. The result is cached for all layers.
        """
        if (call_cost, budget) not in self._groups:
            parts = np.split(np.arange(len(self.lengths)), optimal_cuts(self.lengths, budget, call_cost, power=2))
            self._groups[call_cost, budget] = [Group(int(self._bounds[part[0]]), self.lengths[part]) for part in parts]
        return self._groups[call_cost, budget]

    def prepare(self) -> None:
        """Compute what `mask`, `pad` and `unpad` need, once for all layers and outside of compiled code."""
        _ = self._token_mask, self._padded_rows

    def positions(self) -> Tensor:
        """Return the position of each token in its sequence, from 0: `(T,)`."""
        return self._token_positions

    def owners(self) -> Tensor:
        """Return the index of the sequence of each token: `(T,)`."""
        return self._token_owners

    def mask(self) -> Tensor:
        """Return which positions of the padded sequences are tokens: `(n, t)` booleans."""
        return self._token_mask

    def pad(self, row: Tensor) -> Tensor:
        """Return a row `(T, ...)` as padded sequences `(n, t, ...)`; padding is 0."""
        # Gathering would repeat a row for the padding, to which the backward pass of a GPU adds one by one.
        padded = row.new_zeros((len(self.bounds) - 1) * self.longest, *row.shape[1:])
        return padded.index_copy(0, self._padded_rows, row).view(-1, self.longest, *row.shape[1:])

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
        return padded.flatten(0, 1).index_select(0, self._padded_rows)

    @cached_property
    def _token_owners(self) -> Tensor:
        token_T = torch.arange(int(self._bounds[-1]), dtype=torch.int32, device=self.device)
        return torch.searchsorted(self.bounds, token_T, right=True) - 1

    @cached_property
    def _token_positions(self) -> Tensor:
        return torch.arange(len(self._token_owners), device=self.device) - self.bounds[self._token_owners]

    @cached_property
    def _token_mask(self) -> Tensor:
        return torch.arange(self.longest, device=self.device) < self.bounds.diff().unsqueeze(1)

    @cached_property
    def _padded_rows(self) -> Tensor:
        """Where each token is among the positions `(n * t,)` of the padded sequences."""
        return self._token_owners * self.longest + self._token_positions
