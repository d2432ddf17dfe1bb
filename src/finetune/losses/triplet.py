"""Triplet loss over all triplets of a batch, in the time and memory of a distance matrix.

Shapes: N distinct items of the batch, B relations, n negatives of a row, b rows of one chunk, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from finetune.config.types import NotNegative
from finetune.data.batching.batch import Batch
from finetune.errors import CheckFailed
from finetune.losses.constraints import soft_margin_problems
from finetune.losses.loss import Loss
from finetune.losses.masks import document_weights, positive_and_negative_masks, weighted_mean


class Triplet(Loss):
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0): positives are nearer than negatives, by a margin.

    `negatives` selects the triplets:

    - `given`: the anchor, the positive and each of the negatives of a row; their mean
    - `all`: each item as anchor, with all its positives and negatives; the mean over triplets of positive loss
    - `hard`: for each item the farthest positive and the nearest negative (Hermans et al. 2017)
    - `semi_hard`: for each positive pair the nearest negative that is farther than the positive; if there is none, the
      farthest negative (Schroff et al. 2015)

    Positives are all known ones of the data, as in SupCon, and negatives all others. The distance d is 1 - cosine, or
    euclidean. `soft` replaces the margin by log(1 + exp(d(anchor, positive) - d(anchor, negative))).

    Sources: Schroff et al. 2015, https://arxiv.org/abs/1503.03832; Hermans et al. 2017, https://arxiv.org/abs/1703.07737.
    """

    def __init__(
        self,
        negatives: Literal["given", "all", "hard", "semi_hard"] = "hard",
        distance: Literal["cosine", "euclidean"] = "cosine",
        margin: NotNegative = 0.2,
        soft: bool = False,
    ) -> None:
        super().__init__()
        problems = list(soft_margin_problems("loss", negatives, soft))
        if problems:
            raise CheckFailed(problems)
        self.negatives = negatives
        self.distance = distance
        self.margin = margin
        self.soft = soft

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch; 0 if it has no triplet."""
        if self.negatives == "given":
            return self._given(emb_ND, batch)
        distance_NN = self._distance(emb_ND)
        positive_NN, negative_NN = positive_and_negative_masks(batch, slice(None), len(emb_ND))
        if self.negatives == "all":
            return _mean_of_positive_losses(distance_NN, positive_NN, negative_NN, self.margin)
        if self.negatives == "semi_hard":
            semi_hard_NN = _semi_hard(distance_NN, negative_NN)
            mask_NN = positive_NN & negative_NN.any(1, keepdim=True)
            return weighted_mean(self._loss(distance_NN - semi_hard_NN), mask_NN)
        farthest_N = distance_NN.masked_fill(~positive_NN, float("-inf")).amax(1)
        nearest_N = distance_NN.masked_fill(~negative_NN, float("inf")).amin(1)
        mask_N = positive_NN.any(1) & negative_NN.any(1)
        return weighted_mean(self._loss((farthest_N - nearest_N).masked_fill(~mask_N, 0)), mask_N)

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the sum of the weights of the given triplets; for mined ones that of the rows of the batch."""
        if self.negatives != "given":
            return super().total_weight(batch)
        return document_weights(batch.negatives_Bn >= 0, batch).sum()

    def _given(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        anchor_B1 = batch.anchor_B.unsqueeze(1)
        mask_Bn = batch.negatives_Bn >= 0
        positive_B1 = self._row_distance(emb_ND, anchor_B1, batch.positive_B.unsqueeze(1))
        negative_Bn = self._row_distance(emb_ND, anchor_B1.expand_as(mask_Bn), batch.negatives_Bn.clamp(min=0))
        return weighted_mean(self._loss(positive_B1 - negative_Bn), document_weights(mask_Bn, batch))

    def _loss(self, excess: Tensor) -> Tensor:
        if self.soft:
            return nn.functional.softplus(excess)
        return (excess + self.margin).clamp(min=0)

    def _distance(self, emb_ND: Tensor) -> Tensor:
        """Return the distance between each pair of items, `(N, N)`."""
        if self.distance == "cosine":
            unit_ND = nn.functional.normalize(emb_ND)
            return 1 - unit_ND @ unit_ND.T
        square_N = (emb_ND**2).sum(1)
        square_NN = square_N.unsqueeze(1) + square_N - 2 * emb_ND @ emb_ND.T
        return _root(square_NN)

    def _row_distance(self, emb_ND: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - nn.functional.cosine_similarity(emb_ND[left], emb_ND[right], dim=-1)
        return _root(((emb_ND[left] - emb_ND[right]) ** 2).sum(-1))


def _root(square: Tensor) -> Tensor:
    # The root has no gradient at 0: the distance of an item to itself, or a negative number by rounding.
    positive = square > 1e-12
    return torch.where(positive, square, 1.0).sqrt() * positive


def _mean_of_positive_losses(distance_NN: Tensor, positive_NN: Tensor, negative_NN: Tensor, margin: float) -> Tensor:
    """Return the mean of positive distance - negative distance + margin over all triplets where it is above 0.

    With the negatives of each item sorted by distance, the triplets of a positive with a loss above 0 are those of the
    first few negatives, whose sum is a cumulative sum: O(N^2 log N), where enumerating the triplets would be O(N^3).
    """
    sorted_NN = distance_NN.masked_fill(~negative_NN, float("inf")).sort(1).values
    reach_NN = distance_NN + margin
    count_NN = torch.searchsorted(sorted_NN.detach(), reach_NN.detach().contiguous())  # strictly below
    cumulative_NN = sorted_NN.masked_fill(sorted_NN == float("inf"), 0).cumsum(1)
    sum_NN = cumulative_NN.gather(1, (count_NN - 1).clamp(min=0)) * (count_NN > 0)
    count_NN = count_NN * positive_NN
    return ((reach_NN * count_NN).sum() - (sum_NN * positive_NN).sum()) / count_NN.sum().clamp(min=1)


def _semi_hard(distance_NN: Tensor, negative_NN: Tensor) -> Tensor:
    """Return for each pair the distance of the nearest negative that is farther, else of the farthest, `(N, N)`.

    0 for an item without negatives.
    """
    sorted_NN = distance_NN.masked_fill(~negative_NN, float("inf")).sort(1).values
    count_N1 = negative_NN.sum(1, keepdim=True)
    farther_NN = torch.searchsorted(sorted_NN.detach(), distance_NN.detach().contiguous(), right=True)
    index_NN = torch.minimum(farther_NN, (count_N1 - 1).clamp(min=0))
    return sorted_NN.gather(1, index_NN).masked_fill(count_N1 == 0, 0)
