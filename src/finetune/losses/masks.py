"""Masks over the items of a batch: which are positives, negatives or candidates; and weighted means over documents.

An index of -1 means no item.

Shapes: N distinct items of the batch, B relations, b of the items or of the relations, n negatives of a row,
k = 1 + n documents of a row, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.data.batching.batch import Batch


def document_indices(batch: Batch) -> Tensor:
    """Return the indices of the documents of each row, its positive and its negatives, `(B, k)`."""
    return torch.cat([batch.positive_B.unsqueeze(1), batch.negatives_Bn], 1)


def document_weights(mask: Tensor, batch: Batch) -> Tensor:
    """Return the weight of each document of each row, `(B, k)`: that of its row, 0 outside of the mask."""
    if batch.weight_B is None:
        return mask.float()
    return mask * batch.weight_B.unsqueeze(1)


def weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean; 0 if all weights are 0."""
    return (value * weight).sum() / weight.sum().clamp(min=1e-12)


def known_positive_mask(batch: Batch, source_b: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are known positives of each of these items, `(b, N)` booleans.

    The batch lists them as pairs of items. All shapes are known in advance, so that the device never synchronizes.
    """
    rows = len(source_b)
    # The row of each item: one of those that it is the source of, or an extra row that is not read.
    row_N = source_b.new_full((n_items,), rows).scatter_(0, source_b, torch.arange(rows, device=source_b.device))
    known = torch.zeros(rows + 1, n_items, dtype=torch.bool, device=source_b.device)
    known[row_N[batch.known_E2[:, 0]], batch.known_E2[:, 1]] = True
    known_bN = known[row_N[source_b]]
    if batch.group_N is not None:
        known_bN |= batch.group_N[source_b].unsqueeze(1) == batch.group_N
    return known_bN


def index_mask(indices: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are among the indices, `(N,)` booleans."""
    mask = torch.zeros(n_items + 1, dtype=torch.bool, device=indices.device)
    mask[indices.flatten()] = True  # -1 is the last element, which is removed
    return mask[:-1]


def candidate_mask(batch: Batch, n_items: int) -> Tensor:
    """Return which of the N items are a positive or a negative of any row, `(N,)` booleans."""
    return index_mask(document_indices(batch), n_items)


def positive_and_negative_masks(batch: Batch, rows: slice, n_items: int) -> tuple[Tensor, Tensor]:
    """Return which other items are positives of each of these items, and which negatives: two `(b, N)` booleans."""
    items_b = torch.arange(n_items, device=batch.anchor_B.device)[rows]
    positive_bN = known_positive_mask(batch, items_b, n_items).scatter_(1, items_b.unsqueeze(1), False)
    negative_bN = (~positive_bN).scatter_(1, items_b.unsqueeze(1), False)
    return positive_bN, negative_bN


def has_positive(batch: Batch, n_items: int) -> Tensor:
    """Return which of the N items have another item of the batch as a positive, `(N,)` booleans."""
    mask_N = index_mask(batch.known_E2[:, 0], n_items)
    if batch.group_N is not None:
        order = batch.group_N.sort()
        same = order.values[1:] == order.values[:-1]
        paired = torch.zeros(n_items, dtype=torch.bool, device=same.device)
        paired[order.indices[1:]] |= same
        paired[order.indices[:-1]] |= same
        mask_N = mask_N | paired
    return mask_N


def connected_components(batch: Batch, n_items: int) -> Tensor:
    """Return a number for each of the N items, `(N,)`, equal for items that a chain of positives connects."""
    number_N = torch.arange(n_items, device=batch.anchor_B.device)
    if batch.group_N is not None:
        number_N = torch.unique(batch.group_N, return_inverse=True)[1]
    left_E, right_E = number_N[batch.known_E2[:, 0]], number_N[batch.known_E2[:, 1]]
    root_N = torch.arange(n_items, device=number_N.device)  # the smallest number found so far in the same component
    while True:
        lower_N = root_N.scatter_reduce(0, left_E, root_N[right_E], "amin")
        lower_N = lower_N[lower_N]  # halves the distance to the end of a chain
        if torch.equal(lower_N, root_N):
            return root_N[number_N]
        root_N = lower_N
