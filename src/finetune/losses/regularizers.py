"""Regularization terms of the embeddings alone; add one to a loss with `loss=sum`.

Shapes: N distinct items of the batch, D width.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.loss import Loss
from finetune.losses.masks import positive_and_negative_masks


class Uniformity(Loss):
    """log of the mean over all pairs of items of exp(-t squared distance): low if they are uniform on the sphere.

    Source: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, equation 7.
    """

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(self, t: Positive = 2.0) -> None:
        super().__init__()
        self.t = t

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the term; 0 for a single item."""
        unit_ND = nn.functional.normalize(emb_ND)
        items = len(emb_ND)
        if items < 2:
            return 0 * emb_ND.sum()
        exponent_NN = -self.t * (2 - 2 * unit_ND @ unit_ND.T)
        exponent_NN = exponent_NN.masked_fill(torch.eye(items, dtype=torch.bool, device=emb_ND.device), float("-inf"))
        return exponent_NN.flatten().logsumexp(0) - math.log(items * (items - 1))


class SpreadOut(Loss):
    """Global orthogonal regularization (GOR): unrelated items should have the similarity of random points.

    Over the cosines of all pairs of items that are not known positives: the square of their mean (`mean`), and how much
    their mean square exceeds that of random points, 1 / D (`second_moment`); or the sum of both.

    Source: Zhang et al. 2017, https://arxiv.org/abs/1708.06320, equation 6.
    """

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(self, terms: Literal["both", "mean", "second_moment"] = "both") -> None:
        super().__init__()
        self.terms = terms

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the term; 0 if all items are positives of each other."""
        unit_ND = nn.functional.normalize(emb_ND)
        _, negative_NN = positive_and_negative_masks(batch, slice(None), len(emb_ND))
        count = negative_NN.sum().clamp(min=1)
        cosine_NN = (unit_ND @ unit_ND.T).masked_fill(~negative_NN, 0)
        mean_term = (cosine_NN.sum() / count) ** 2
        excess_term = ((cosine_NN**2).sum() / count - 1 / emb_ND.shape[1]).clamp(min=0)
        return {"mean": mean_term, "second_moment": excess_term, "both": mean_term + excess_term}[self.terms]
