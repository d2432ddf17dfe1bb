"""Who is right for whom within a batch, as masks.

Shapes: N distinct items of the batch, b of them or of its relations, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.data.batching.batch import Batch
from finetune.losses.documents import documents


def known_positives(batch: Batch, source_b: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are known to be right for each of these items, `(b, N)` booleans.

    The batch lists them as pairs of items. All shapes are known beforehand, so that nothing waits for the device.
    """
    rows = len(source_b)
    # Where the pairs of an item are written: to one of the rows that it is the source of, or to one that nobody reads.
    row_N = source_b.new_full((n_items,), rows).scatter_(0, source_b, torch.arange(rows, device=source_b.device))
    known = torch.zeros(rows + 1, n_items, dtype=torch.bool, device=source_b.device)
    known[row_N[batch.known_E2[:, 0]], batch.known_E2[:, 1]] = True
    known_bN = known[row_N[source_b]]
    if batch.group_N is not None:
        known_bN |= batch.group_N[source_b].unsqueeze(1) == batch.group_N
    return known_bN


def are_among(places: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are listed, `(N,)` booleans; place -1 is nobody."""
    listed = torch.zeros(n_items + 1, dtype=torch.bool, device=places.device)
    listed[places.flatten()] = True  # -1 is the last, which is cut off
    return listed[:-1]


def candidates(batch: Batch, n_items: int) -> Tensor:
    """Return which of the N items are a positive or a negative of any row, `(N,)` booleans."""
    return are_among(documents(batch), n_items)


def others(batch: Batch, rows: slice, n_items: int) -> tuple[Tensor, Tensor]:
    """Return for each of these items which others of the N are right for it, and which not: two `(b, N)` booleans."""
    items_b = torch.arange(n_items, device=batch.anchor_B.device)[rows]
    right_bN = known_positives(batch, items_b, n_items).scatter_(1, items_b.unsqueeze(1), False)
    wrong_bN = (~right_bN).scatter_(1, items_b.unsqueeze(1), False)
    return right_bN, wrong_bN


def has_positive(batch: Batch, n_items: int) -> Tensor:
    """Return which of the N items have another that is right for them, `(N,)` booleans."""
    found_N = are_among(batch.known_E2[:, 0], n_items)
    if batch.group_N is not None:
        order = batch.group_N.sort()
        same = order.values[1:] == order.values[:-1]
        paired = torch.zeros(n_items, dtype=torch.bool, device=same.device)
        paired[order.indices[1:]] |= same
        paired[order.indices[:-1]] |= same
        found_N = found_N | paired
    return found_N


def connected(batch: Batch, n_items: int) -> Tensor:
    """Return a number for each of the N items, `(N,)`: the same for those that a chain of right pairs connects here."""
    number_N = torch.arange(n_items, device=batch.anchor_B.device)
    if batch.group_N is not None:
        number_N = torch.unique(batch.group_N, return_inverse=True)[1]
    left_E, right_E = number_N[batch.known_E2[:, 0]], number_N[batch.known_E2[:, 1]]
    root_N = torch.arange(n_items, device=number_N.device)  # of each number, the smallest found that it goes with
    while True:
        lower_N = root_N.scatter_reduce(0, left_E, root_N[right_E], "amin")
        lower_N = lower_N[lower_N]  # half of the way to the end of a chain at once
        if torch.equal(lower_N, root_N):
            return root_N[number_N]
        root_N = lower_N
