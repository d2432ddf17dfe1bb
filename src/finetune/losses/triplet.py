"""Triplet loss over all triplets of a batch, at the cost of a matrix.

Shapes: N distinct items of the batch, B relations, n negatives of a row, b rows of one chunk, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from finetune.config.types import NotNegative
from finetune.data.batching.batch import Batch
from finetune.errors import CheckFailed
from finetune.losses.constraints import soft_over_all
from finetune.losses.documents import weighed, weighted_mean
from finetune.losses.loss import Loss
from finetune.losses.masks import others


class Triplet(Loss):
    """An anchor shall be nearer to what is right for it than to what is wrong, by a margin.

    Which triplets count, `negatives`:

    - `given`: the anchor, the positive and each of the negatives of a row; their mean
    - `all`: any item, anything right for it, anything wrong for it; the mean over those that lose anything
    - `hard`: for each item the farthest right one and the nearest wrong one (Hermans et al. 2017)
    - `semi_hard`: for each right pair the nearest wrong one that is farther than the right one; if none is, the
      farthest wrong one (Schroff et al. 2015)

    Right and wrong is what the whole data says, as in SupCon. `distance` is 1 - cosine, or euclidean. `soft` takes
    log(1 + exp(right - wrong)), which knows no margin.

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
        if problems := [*soft_over_all("loss", negatives, soft)]:
            raise CheckFailed(problems)
        self.negatives = negatives
        self.distance = distance
        self.margin = margin
        self.soft = soft

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch; 0 where there is no triplet."""
        if self.negatives == "given":
            return self._given(emb_ND, batch)
        distance_NN = self._distance(emb_ND)
        right_NN, wrong_NN = others(batch, slice(None), len(emb_ND))
        if self.negatives == "all":
            return _all_that_lose(distance_NN, right_NN, wrong_NN, self.margin)
        if self.negatives == "semi_hard":
            wrong_of_NN = _semi_hard(distance_NN, wrong_NN)
            counted_NN = right_NN & wrong_NN.any(1, keepdim=True)
            return weighted_mean(self._lost(distance_NN - wrong_of_NN), counted_NN)
        farthest_N = distance_NN.masked_fill(~right_NN, float("-inf")).amax(1)
        nearest_N = distance_NN.masked_fill(~wrong_NN, float("inf")).amin(1)
        counted_N = right_NN.any(1) & wrong_NN.any(1)
        return weighted_mean(self._lost((farthest_N - nearest_N).masked_fill(~counted_N, 0)), counted_N)

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the sum of the weights of the given triplets; mined ones count as the rows they come from."""
        if self.negatives != "given":
            return super().total_weight(batch)
        return weighed(batch.negatives_Bn >= 0, batch).sum()

    def _given(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        anchor_B1, there_Bn = batch.anchor_B.unsqueeze(1), batch.negatives_Bn >= 0
        right_B1 = self._between(emb_ND, anchor_B1, batch.positive_B.unsqueeze(1))
        wrong_Bn = self._between(emb_ND, anchor_B1.expand_as(there_Bn), batch.negatives_Bn.clamp(min=0))
        return weighted_mean(self._lost(right_B1 - wrong_Bn), weighed(there_Bn, batch))

    def _lost(self, excess: Tensor) -> Tensor:
        return nn.functional.softplus(excess) if self.soft else (excess + self.margin).clamp(min=0)

    def _distance(self, emb_ND: Tensor) -> Tensor:
        """Return the distance of every two items, `(N, N)`."""
        if self.distance == "cosine":
            unit_ND = nn.functional.normalize(emb_ND)
            return 1 - unit_ND @ unit_ND.T
        square_N = (emb_ND**2).sum(1)
        square_NN = square_N.unsqueeze(1) + square_N - 2 * emb_ND @ emb_ND.T
        return _root(square_NN)

    def _between(self, emb_ND: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - nn.functional.cosine_similarity(emb_ND[left], emb_ND[right], dim=-1)
        return _root(((emb_ND[left] - emb_ND[right]) ** 2).sum(-1))


def _root(square: Tensor) -> Tensor:
    # The root has no gradient at 0, where an item meets itself or rounding went below.
    positive = square > 1e-12
    return torch.where(positive, square, 1.0).sqrt() * positive


def _all_that_lose(distance_NN: Tensor, right_NN: Tensor, wrong_NN: Tensor, margin: float) -> Tensor:
    """Return the mean of right - wrong + margin over all triplets where it is above 0.

    With the wrong ones of each item sorted, those that lose against one right item are the first so many, and what they
    sum to is a running sum: N squared log N, where listing the triplets would be N to the third.
    """
    wrong_sorted_NN = distance_NN.masked_fill(~wrong_NN, float("inf")).sort(1).values
    reach_NN = distance_NN + margin
    count_NN = torch.searchsorted(wrong_sorted_NN.detach(), reach_NN.detach().contiguous())  # strictly below
    running_NN = wrong_sorted_NN.masked_fill(wrong_sorted_NN == float("inf"), 0).cumsum(1)
    sum_NN = running_NN.gather(1, (count_NN - 1).clamp(min=0)) * (count_NN > 0)
    count_NN = count_NN * right_NN
    return ((reach_NN * count_NN).sum() - (sum_NN * right_NN).sum()) / count_NN.sum().clamp(min=1)


def _semi_hard(distance_NN: Tensor, wrong_NN: Tensor) -> Tensor:
    """Return for each two items the nearest wrong one that is farther than they are, else the farthest, `(N, N)`.

    0 where an item has no wrong one.
    """
    wrong_sorted_NN = distance_NN.masked_fill(~wrong_NN, float("inf")).sort(1).values
    count_N1 = wrong_NN.sum(1, keepdim=True)
    farther_NN = torch.searchsorted(wrong_sorted_NN.detach(), distance_NN.detach().contiguous(), right=True)
    place_NN = torch.minimum(farther_NN, (count_N1 - 1).clamp(min=0))
    return wrong_sorted_NN.gather(1, place_NN).masked_fill(count_N1 == 0, 0)
