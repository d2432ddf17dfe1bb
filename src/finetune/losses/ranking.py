"""Losses that learn the order of the documents of a row, by pairs of them or as a whole list.

Shapes: b relations of one chunk, k documents of a row; (b, k, k) is of two documents i and j each.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from finetune.config.types import Positive, PositiveInt
from finetune.losses.listwise import NOBODY, ListLoss, log_shares, mean_of


class RankNet(ListLoss):
    """Mean over the documents i, j of a row with target_i > target_j of log(1 + exp(-sigma (score_i - score_j))).

    Source: Burges et al. 2005, https://doi.org/10.1145/1102351.1102363, equation 3 with a target probability of 1.
    """

    def __init__(self, sigma: Positive = 1.0, scale: Positive = 20.0) -> None:
        super().__init__(scale)
        self.sigma = sigma

    def per_list(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`; 0 where no document is better than another."""
        apart_bkk = student_bk.unsqueeze(2) - student_bk.unsqueeze(1)
        lost_bkk = nn.functional.softplus(-self.sigma * apart_bkk)
        counted_bkk, weight_bkk = self._pairs(student_bk.detach(), target_bk, there_bk)
        return mean_of(weight_bkk * lost_bkk, counted_bkk)

    def _pairs(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pairs count, and how much, both `(b, k, k)`."""
        better_bkk = (target_bk.unsqueeze(2) > target_bk.unsqueeze(1)) & _both(there_bk)
        return better_bkk, better_bkk.to(student_bk)


class LambdaLoss(RankNet):
    """RankNet in bits, whose pairs weigh what they do to the nDCG of the row as the model ranks it now.

    With gains G = (2^target - 1) / maxDCG and discounts D = log2(1 + rank), the `weighting` of a pair is

    - `none`: 1
    - `ndcg1`: G_i / D_i, over all two documents, also of equal targets
    - `ndcg2`: |G_i - G_j| times the difference of 1 / D between the ranks |i - j| and |i - j| + 1
    - `lambdarank`: |G_i - G_j| |1 / D_i - 1 / D_j|

    With `k` only pairs count of which a document ranks among the first k, and so does maxDCG. Targets are grades from
    0: a teacher's scores are none, but for `none`.

    Source: Wang et al. 2018, https://doi.org/10.1145/3269206.3271784, sections 4 to 6.
    """

    def __init__(
        self,
        weighting: Literal["none", "ndcg1", "ndcg2", "lambdarank"] = "ndcg2",
        k: PositiveInt | None = None,
        sigma: Positive = 1.0,
        scale: Positive = 20.0,
    ) -> None:
        super().__init__(sigma, scale)
        self.weighting = weighting
        self.k = k

    def _pairs(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pairs count, and how much, both `(b, k, k)`."""
        counted_bkk, weight_bkk = super()._pairs(student_bk, target_bk, there_bk)
        rank_bk = student_bk.masked_fill(~there_bk, NOBODY).argsort(dim=1, descending=True, stable=True).argsort(1)
        if self.weighting == "ndcg1":
            counted_bkk = _both(there_bk)
        if self.k is not None:
            first_bk = rank_bk < self.k
            counted_bkk = counted_bkk & (first_bk.unsqueeze(2) | first_bk.unsqueeze(1))
        if self.weighting != "none":
            weight_bkk = self._weights(rank_bk, self._gains(target_bk))
        return counted_bkk, weight_bkk / math.log(2)

    def _gains(self, target_bk: Tensor) -> Tensor:
        """Return what each document adds to the nDCG if it ranks first, `(b, k)`; 0 of an absent one, its target."""
        gain_bk = 2**target_bk - 1
        place_k = torch.arange(target_bk.shape[1], device=target_bk.device)
        best_bk = gain_bk.sort(1, descending=True).values * _discount(place_k)
        return gain_bk / best_bk[:, : self.k].sum(1, keepdim=True).clamp(min=1e-10)

    def _weights(self, rank_bk: Tensor, gain_bk: Tensor) -> Tensor:
        if self.weighting == "ndcg1":
            return (gain_bk * _discount(rank_bk)).unsqueeze(2)
        gain_bkk = (gain_bk.unsqueeze(2) - gain_bk.unsqueeze(1)).abs()
        if self.weighting == "ndcg2":
            between_bkk = (rank_bk.unsqueeze(2) - rank_bk.unsqueeze(1)).abs()
            return gain_bkk * (_discount((between_bkk - 1).clamp(min=0)) - _discount(between_bkk))
        discount_bk = _discount(rank_bk)
        return gain_bkk * (discount_bk.unsqueeze(2) - discount_bk.unsqueeze(1)).abs()


class ListNet(ListLoss):
    """Cross-entropy of the softmax of the scores with the softmax of the targets, over the documents of a row.

    Source: Cao et al. 2007, https://doi.org/10.1145/1273496.1273513, with the probabilities of being first.
    """

    def per_list(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        share_bk = log_shares(target_bk, there_bk).exp()
        return -(share_bk * log_shares(student_bk, there_bk) * there_bk).sum(1)


class ListMLE(ListLoss):
    """-log likelihood of the order of the targets, drawing one document after the other by the softmax of the scores.

    Documents of equal targets come in the order of the row. `position_aware` weighs the draw at rank i of n by
    2^(n - i) - 1, the weights of a list summing to 1: what comes first counts most.

    Sources: Xia et al. 2008, https://doi.org/10.1145/1390156.1390306; the weights: Lan et al. 2014,
    https://auai.org/uai2014/proceedings/individuals/164.pdf.
    """

    def __init__(self, position_aware: bool = False, scale: Positive = 20.0) -> None:
        super().__init__(scale)
        self.position_aware = position_aware

    def per_list(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        order_bk = target_bk.masked_fill(~there_bk, float("-inf")).argsort(dim=1, descending=True, stable=True)
        there_bk = there_bk.gather(1, order_bk)
        student_bk = student_bk.gather(1, order_bk).masked_fill(~there_bk, NOBODY)
        left_bk = student_bk.flip(1).logcumsumexp(1).flip(1)  # of the documents not yet drawn
        lost_bk = (left_bk - student_bk) * there_bk
        return (lost_bk * _place_weights(there_bk)).sum(1) if self.position_aware else lost_bk.sum(1)


def _both(there_bk: Tensor) -> Tensor:
    return there_bk.unsqueeze(2) & there_bk.unsqueeze(1)


def _discount(rank: Tensor) -> Tensor:
    return 1 / torch.log2(rank + 2.0)  # ranks begin at 0


def _place_weights(there_bk: Tensor) -> Tensor:
    place_k = torch.arange(1, there_bk.shape[1] + 1, device=there_bk.device)
    # Over 2^n, which cancels: the power itself would be too large for a long list.
    weight_bk = (0.5**place_k - 0.5 ** there_bk.sum(1, keepdim=True)) * there_bk
    return weight_bk / weight_bk.sum(1, keepdim=True).clamp(min=1e-30)
