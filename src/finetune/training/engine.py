"""The micro-batch engine: encodes each distinct item of a batch once, without paying for padding.

Shapes: N distinct items, T tokens of all of them in a row, n items of one micro-batch, t its longest, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config.types import PositiveInt

if TYPE_CHECKING:
    from finetune.data.tokens import Tokens


class Engine:
    """Encodes items in micro-batches of at most `token_budget` padded tokens, sorted by length.

    The embeddings come back in the order of the items, so that the loss never notices how they were cut.
    """

    def __init__(self, token_budget: PositiveInt = 8192) -> None:
        self.token_budget = token_budget

    def encode(self, encoder: nn.Module, ids_T: Tensor, lengths_N: np.ndarray, pad_id: int) -> Tensor:
        """Embed N items given as one row of token ids and the length of each; returns `(N, D)` with gradients.

        `lengths_N` stays on the CPU: cutting by length must not wait for the device.
        """
        order_N = np.argsort(lengths_N, kind="stable")
        starts_N = np.cumsum(lengths_N) - lengths_N
        parts = [
            encoder(*_pad(ids_T, starts_N[rows], lengths_N[rows], pad_id))
            for rows in self.cut(order_N, lengths_N)
        ]
        back_N = torch.from_numpy(np.argsort(order_N)).to(ids_T.device, non_blocking=True)
        return torch.cat(parts).index_select(0, back_N)

    @torch.inference_mode()
    def embed(self, encoder: nn.Module, tokens: Tokens, items: np.ndarray, pad_id: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Embed any number of items for evaluation: yields (positions in `items`, their embeddings), longest first.

        Longest first, so that a device that is too small says so at once and the time left is not underestimated.
        """
        device = next(encoder.parameters()).device
        lengths = tokens.lengths[items]
        for rows in reversed(list(self.cut(np.argsort(lengths, kind="stable"), lengths))):
            ids_T, lengths_n = tokens.take(items[rows])
            starts_n = np.cumsum(lengths_n) - lengths_n
            flat = torch.from_numpy(ids_T.astype(np.int64)).to(device)
            yield rows, encoder(*_pad(flat, starts_n, lengths_n, pad_id))

    def cut(self, order_N: np.ndarray, lengths_N: np.ndarray) -> Iterator[np.ndarray]:
        """Cut items, sorted by rising length, into runs whose padded size stays within the budget."""
        start = 0
        for end in range(1, len(order_N) + 1):
            full = end == len(order_N) or (end + 1 - start) * lengths_N[order_N[end]] > self.token_budget
            if full:
                yield order_N[start:end]
                start = end

    def padding_share(self, lengths_N: np.ndarray) -> float:
        """Return the share of padded positions, 0 to 1, that encoding these items costs."""
        cuts = self.cut(np.argsort(lengths_N, kind="stable"), lengths_N)
        padded = sum(len(rows) * int(lengths_N[rows].max()) for rows in cuts)
        return 1 - float(lengths_N.sum()) / padded


def _pad(ids_T: Tensor, starts_n: np.ndarray, lengths_n: np.ndarray, pad_id: int) -> tuple[Tensor, Tensor | None]:
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
