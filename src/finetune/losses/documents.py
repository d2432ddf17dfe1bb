"""The documents of each row, its positive and its negatives, and means over what is there.

Shapes: B relations, n negatives of a row, k = 1 + n documents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.data.batching.batch import Batch


def documents(batch: Batch) -> Tensor:
    """Return the places of the positive and of the negatives of each row, `(B, k)`; -1 is nobody."""
    return torch.cat([batch.positive_B.unsqueeze(1), batch.negatives_Bn], 1)


def weighed(there: Tensor, batch: Batch) -> Tensor:
    """Return how much each document of each row counts, `(B, k)`: as its row does if it is there, else nothing."""
    return there.float() if batch.weight_B is None else there * batch.weight_B.unsqueeze(1)


def weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean; 0 where nothing counts."""
    return (value * weight).sum() / weight.sum().clamp(min=1e-12)
