"""Losses that learn from a score for each pair of items.

Shapes: N distinct items of the batch, B relations, k scored documents of a row, P = B k pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.data.schema.sample_values import MIDDLE
from finetune.errors import CheckFailed, Problem
from finetune.losses.constraints import no_range
from finetune.losses.documents import documents, weighed, weighted_mean
from finetune.losses.loss import Loss


@dataclass(frozen=True)
class ScoredPairs:
    """All scored pairs of a batch: places `left_P`, `right_P`, their `score_P`, and how much each counts, `weight_P`.

    A document that is not there counts 0 and has score 0: all shapes are known beforehand, and no device is waited for.
    """

    left_P: Tensor
    right_P: Tensor
    score_P: Tensor
    weight_P: Tensor

    @classmethod
    def of(cls, batch: Batch, right_from: float | None = None) -> ScoredPairs:
        """Return the pairs of anchors and their documents; without scores, 1 for the positive and 0 for negatives.

        With `right_from`, scores become 1 from that score on and 0 below.
        """
        right_Bk = documents(batch)
        if batch.score_Bk is None:
            score_Bk = torch.zeros(right_Bk.shape, device=right_Bk.device)
            score_Bk[:, 0] = 1
        else:
            score_Bk = batch.score_Bk.float()
            if right_from is not None:
                score_Bk = torch.where(score_Bk.isnan(), score_Bk, score_Bk >= right_from)
        there_Bk = ~score_Bk.isnan() & (right_Bk >= 0)
        left_Bk = batch.anchor_B.unsqueeze(1).expand_as(right_Bk)
        columns = left_Bk, right_Bk.clamp(min=0), score_Bk.nan_to_num(0.0), weighed(there_Bk, batch)
        return cls(*(column.flatten() for column in columns))

    def mean(self, value_P: Tensor) -> Tensor:
        """Return the weighted mean of a value of each pair."""
        return weighted_mean(value_P, self.weight_P)

    def cosine(self, emb_ND: Tensor) -> Tensor:
        """Return the cosine of each pair, `(P,)`."""
        return torch.nn.functional.cosine_similarity(emb_ND[self.left_P], emb_ND[self.right_P])


class CoSENT(Loss):
    """log(1 + sum over pairs i, j with score_i > score_j of exp((cosine_j - cosine_i) / temperature)).

    Only the order of the scores counts, not their size. Sorted by score the sum is a running one: P log P.

    Source: Su 2022, https://kexue.fm/archives/8847, equation 8.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, temperature: Positive = 0.05) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        pairs = ScoredPairs.of(batch)
        return ordered(self._similarity(emb_ND, pairs) / self.temperature, pairs.score_P, pairs.weight_P)

    def _similarity(self, emb_ND: Tensor, pairs: ScoredPairs) -> Tensor:
        return pairs.cosine(emb_ND)


class AnglE(CoSENT):
    """CoSENT over the angle of two embeddings taken as complex vectors, where the cosine has no gradient at its ends.

    Source: Li and Li 2023, https://arxiv.org/abs/2309.12871, equations 5 to 8. The first half of an embedding is the
    real part, the second the imaginary one; so the width must be even.
    """

    def _similarity(self, emb_ND: Tensor, pairs: ScoredPairs) -> Tensor:
        a_P, b_P = (emb_ND[:, : emb_ND.shape[1] // 2], emb_ND[:, emb_ND.shape[1] // 2 :])
        re_x, im_x, re_y, im_y = a_P[pairs.left_P], b_P[pairs.left_P], a_P[pairs.right_P], b_P[pairs.right_P]
        square_y = (re_y**2 + im_y**2).sum(1, keepdim=True)
        re = (re_x * re_y + im_x * im_y) / square_y
        im = (im_x * re_y - re_x * im_y) / square_y
        length = (re_x**2 + im_x**2).sum(1, keepdim=True).sqrt() / square_y.sqrt()
        return ((re / length).sum(1) + (im / length).sum(1)).abs()

    def fit_width(self, width: int) -> None:
        """Refuse an odd width."""
        if width % 2:
            what = f"loss=angle takes embeddings as complex numbers, and {width} dimensions cannot be halved."
            raise CheckFailed([Problem("loss", what, "Take loss=cosent.")])


class CosineMSE(Loss):
    """Squared distance of the cosine from the score, which `lowest` to `highest` bring to 0 to 1.

    Source: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3, regression objective.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, lowest: float = 0.0, highest: float = 1.0) -> None:
        super().__init__()
        if problems := [*no_range("loss", lowest, highest)]:
            raise CheckFailed(problems)
        self.lowest = lowest
        self.highest = highest

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        pairs = ScoredPairs.of(batch)
        target_P = (pairs.score_P - self.lowest) / (self.highest - self.lowest)
        return pairs.mean((pairs.cosine(emb_ND) - target_P) ** 2)

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the sum of the weights of the pairs."""
        return ScoredPairs.of(batch).weight_P.sum()


class Pearson(Loss):
    """One minus the correlation of cosines and scores over the batch; neither's scale nor offset counts.

    Source: Pearson 1895, as a loss in Liu et al. 2024, https://arxiv.org/abs/2406.05326.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores",)

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch; 1 where all scores are the same."""
        pairs = ScoredPairs.of(batch)
        cosine_P = pairs.cosine(emb_ND)
        x_P, y_P = (value_P - pairs.mean(value_P) for value_P in (cosine_P, pairs.score_P.to(cosine_P)))
        variances = (pairs.mean(x_P**2) * pairs.mean(y_P**2)).clamp(min=1e-12)
        return 1 - pairs.mean(x_P * y_P) / variances.sqrt()


class Contrastive(Loss):
    """Half of distance squared for right pairs, of (margin - distance) squared for wrong ones nearer than the margin.

    The distance is 1 - cosine. Right are pairs with a score from `right_from` on; None is 0.5, for scores of 0 to 1, to
    which the check holds the data. Without scores, a row's positive is right and its negatives are wrong. `only_hard`
    takes the wrong pairs nearer than the farthest right one, and the right ones farther than the nearest wrong one, and
    their sum in place of the mean, without the half.

    Source: Hadsell et al. 2006, http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf, equation 4; only
    hard pairs as in sentence-transformers' OnlineContrastiveLoss.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores", "negatives")

    def __init__(self, margin: Positive = 0.5, right_from: float | None = None, only_hard: bool = False) -> None:
        super().__init__()
        self.margin = margin
        self.right_from = MIDDLE if right_from is None else right_from
        self.only_hard = only_hard

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        pairs = ScoredPairs.of(batch, self.right_from)
        distance_P, right_P = 1 - pairs.cosine(emb_ND), pairs.score_P > 0
        pull_P, push_P = distance_P**2, (self.margin - distance_P).clamp(min=0) ** 2
        if not self.only_hard:
            return pairs.mean(torch.where(right_P, pull_P, push_P)) / 2
        there_P = pairs.weight_P > 0
        farthest = _reach(distance_P.detach(), right_P & there_P, ~right_P & there_P, farthest=True)
        nearest = _reach(distance_P.detach(), ~right_P & there_P, right_P & there_P, farthest=False)
        hard_P = torch.where(right_P, distance_P > nearest, distance_P < farthest)
        return (torch.where(right_P, pull_P, push_P) * hard_P * pairs.weight_P).sum()

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the sum of the weights of the pairs; `only_hard` is a sum, which has no denominator."""
        if self.only_hard:
            return super().total_weight(batch)
        return ScoredPairs.of(batch, self.right_from).weight_P.sum()


def ordered(value_P: Tensor, score_P: Tensor, weight_P: Tensor) -> Tensor:
    """Return log(1 + sum over i, j with score_i > score_j of w_i w_j exp(value_j - value_i)) for values `(P,)`."""
    score_P, order_P = score_P.sort()
    # As good as minus infinity, which would make a gradient of NaN in a running sum.
    log_weight_P = weight_P[order_P].log().clamp(min=-1e4).to(value_P)
    value_P = value_P[order_P]
    running_P = torch.logcumsumexp(value_P + log_weight_P, 0)
    lower_P = torch.searchsorted(score_P, score_P, right=False)  # how many have a lower score
    below_P = running_P[(lower_P - 1).clamp(min=0)].masked_fill(lower_P == 0, float("-inf"))
    terms_P = below_P - value_P + log_weight_P
    return torch.cat([terms_P, terms_P.new_zeros(1)]).logsumexp(0)


def _reach(distance_P: Tensor, of_P: Tensor, others_P: Tensor, *, farthest: bool) -> Tensor:
    """Return the largest (or smallest) distance of these pairs; of none, the mean of the others."""
    ends = distance_P.masked_fill(~of_P, float("-inf") if farthest else float("inf"))
    end = ends.max() if farthest else ends.min()
    mean = (distance_P * others_P).sum() / others_P.sum().clamp(min=1)
    return torch.where(of_P.any(), end, mean)
