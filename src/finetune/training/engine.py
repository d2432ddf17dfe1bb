"""The micro-batch engine: encodes each distinct item of a batch once, without paying for padding.

Shapes: N distinct items, T tokens of all of them in a row, n items of one micro-batch, t its longest, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config.types import CountFromZero, PositiveInt
from finetune.data.arrays import Ints

if TYPE_CHECKING:
    from finetune.data.tokens import Tokens


class Engine:
    """Encodes items in micro-batches of like length, of at most `token_budget` padded tokens each.

    The embeddings come back in the order of the items, so that the loss never notices how they were cut. Another
    micro-batch costs about as much as `call_cost` more padded tokens: it is worth it where it saves more padding.
    """

    def __init__(self, token_budget: PositiveInt = 8192, call_cost: CountFromZero = 128) -> None:
        self.token_budget = token_budget
        self.call_cost = call_cost

    def encode(
        self, encoder: nn.Module, ids_T: Tensor, lengths_N: Ints, pad_id: int, rows_n: Ints | None = None
    ) -> Tensor:
        """Embed items given as one row of token ids and the length of each; returns `(N, D)` with gradients.

        `rows_n` asks for some of the items only, `(n, D)` in that order. `lengths_N` stays on the CPU: cutting by
        length must not wait for the device.
        """
        rows_n = np.arange(len(lengths_N)) if rows_n is None else rows_n
        starts_N = np.cumsum(lengths_N) - lengths_N
        cuts = list(self.cut(lengths_N[rows_n]))
        parts = [encoder(*_pad(ids_T, starts_N[rows_n[cut]], lengths_N[rows_n[cut]], pad_id)) for cut in cuts]
        back_n = torch.from_numpy(np.argsort(np.concatenate(cuts))).to(ids_T.device, non_blocking=True)
        return torch.cat(parts).index_select(0, back_n)

    @torch.inference_mode()
    def embed(self, encoder: nn.Module, tokens: Tokens, items: Ints, pad_id: int) -> Iterator[tuple[Ints, Tensor]]:
        """Embed any number of items for evaluation: yields (positions in `items`, their embeddings), longest first.

        Longest first, so that a device that is too small says so at once and the time left is not underestimated.
        """
        device = next(encoder.parameters()).device
        lengths = tokens.lengths[items]
        for rows in reversed(list(self.cut(lengths))):
            ids_T, lengths_n = tokens.take(items[rows])
            starts_n = np.cumsum(lengths_n) - lengths_n
            flat = torch.from_numpy(ids_T.astype(np.int64)).to(device)
            yield rows, encoder(*_pad(flat, starts_n, lengths_n, pad_id))

    def cut(self, lengths_N: Ints) -> Iterator[Ints]:
        """Cut items into micro-batches, shortest first: yields the positions of each.

        The cheapest cut of all, found by dynamic programming over the distinct lengths: a micro-batch costs its padded
        tokens and `call_cost`, and one over the budget is cut again.
        """
        order_N = np.argsort(lengths_N, kind="stable")
        distinct_L, first_L = np.unique(lengths_N[order_N], return_index=True)
        bounds = np.append(first_L, len(order_N))
        for low, high in self._cheapest(distinct_L, bounds):
            rows = order_N[bounds[low] : bounds[high]]
            per_call = max(1, self.token_budget // int(distinct_L[high - 1]))
            yield from np.array_split(rows, -(-len(rows) // per_call))

    def _cheapest(self, distinct_L: Ints, bounds: Ints) -> list[tuple[int, int]]:
        best = np.zeros(len(distinct_L) + 1)
        cut_at = np.zeros(len(distinct_L) + 1, dtype=np.int64)
        for high in range(1, len(distinct_L) + 1):
            longest = int(distinct_L[high - 1])
            items = bounds[high] - bounds[:high]
            calls = -(-items // max(1, self.token_budget // longest))
            cost = best[:high] + items * longest + calls * self.call_cost
            cut_at[high] = np.argmin(cost)
            best[high] = cost[cut_at[high]]
        runs: list[tuple[int, int]] = []
        high = len(distinct_L)
        while high:
            runs.append((int(cut_at[high]), high))
            high = int(cut_at[high])
        return runs[::-1]

    def padding_share(self, lengths_N: Ints) -> float:
        """Return the share of padded positions, 0 to 1, that encoding these items costs."""
        padded = sum(len(rows) * int(lengths_N[rows].max()) for rows in self.cut(lengths_N))
        return 1 - float(lengths_N.sum()) / padded


def _pad(ids_T: Tensor, starts_n: Ints, lengths_n: Ints, pad_id: int) -> tuple[Tensor, Tensor | None]:
    longest = int(lengths_n.max())
    columns_t = np.arange(longest)
    mask_nt = columns_t < lengths_n[:, None]
    index_nt = np.where(mask_nt, starts_n[:, None] + columns_t, 0)
    ids_nt = ids_T[torch.from_numpy(index_nt).to(ids_T.device, non_blocking=True)]
    if mask_nt.all():
        # No mask at all keeps attention on its fast path; sorting by length makes this common for short texts.
        return ids_nt, None
    mask = torch.from_numpy(mask_nt).to(ids_T.device, non_blocking=True)
    return ids_nt.masked_fill(~mask, pad_id), mask.long()
