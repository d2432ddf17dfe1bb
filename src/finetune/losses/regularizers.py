"""Terms that look at the embeddings alone; to be added to a loss with `loss=sum`.

Shapes: N distinct items of the batch, D width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.loss import Loss
from finetune.losses.masks import others


class Uniformity(Loss):
    """log of the mean over all two items of exp(-t squared distance): low where they spread evenly over the sphere.

    Source: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, equation 7.
    """

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(self, t: Positive = 2.0) -> None:
        super().__init__()
        self.t = t

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the term; 0 for a single item."""
        unit_ND, items = nn.functional.normalize(emb_ND), len(emb_ND)
        if items < 2:
            return 0 * emb_ND.sum()
        exponent_NN = -self.t * (2 - 2 * unit_ND @ unit_ND.T)
        exponent_NN = exponent_NN.masked_fill(torch.eye(items, dtype=torch.bool, device=emb_ND.device), float("-inf"))
        return exponent_NN.flatten().logsumexp(0) - torch.log(torch.tensor(items * (items - 1.0)).to(emb_ND))


class SpreadOut(Loss):
    """Items that have nothing to do with each other shall be as far apart as random points: global orthogonality (GOR).

    Of the cosines of all two items that are not known to be right for each other: their mean, squared (`mean`), and
    their mean square over that of random points, 1 / D (`second_moment`), of which only the excess counts; their sum.

    Source: Zhang et al. 2017, https://arxiv.org/abs/1708.06320, equation 6.
    """

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(self, terms: Literal["both", "mean", "second_moment"] = "both") -> None:
        super().__init__()
        self.terms = terms

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the term; 0 where all items belong together."""
        unit_ND = nn.functional.normalize(emb_ND)
        wrong_NN = others(batch, slice(None), len(emb_ND))[1]
        count = wrong_NN.sum().clamp(min=1)
        cosine_NN = (unit_ND @ unit_ND.T).masked_fill(~wrong_NN, 0)
        mean_term = (cosine_NN.sum() / count) ** 2
        excess_term = ((cosine_NN**2).sum() / count - 1 / emb_ND.shape[1]).clamp(min=0)
        return {"mean": mean_term, "second_moment": excess_term, "both": mean_term + excess_term}[self.terms]
