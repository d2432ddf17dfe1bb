"""Losses composed of other losses.

Shapes: N distinct items of the batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from finetune.config.types import NotNegative, Positive, PositiveInt
from finetune.data.batching.batch import Batch
from finetune.errors import CheckFailed, Problem
from finetune.losses.constraints import dimension_problems
from finetune.losses.loss import SharedLoss, check_width, local_loss, total_weight


class Matryoshka(SharedLoss):
    """A loss over the first dimensions of the embeddings, normalized again, for several such widths.

    The result is the weighted sum (weights of 1 by default). The embeddings remain useful when they are truncated.

    Source: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147, equation 1.
    """

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, loss: nn.Module, dimensions: Sequence[PositiveInt], weights: Sequence[NotNegative] | None = None
    ) -> None:
        super().__init__()
        if not dimensions:
            raise CheckFailed([Problem("loss.dimensions", "there is none.", "Set the widths, as in [384,128,32].")])
        if weights is not None and len(weights) != len(dimensions):
            what = f"there are {len(weights)} weights for {len(dimensions)} dimensions."
            raise CheckFailed([Problem("loss.weights", what, "Set one for each, or null for 1 each.")])
        self.loss = loss
        self.dimensions = list(dimensions)
        self.weights = [1.0] * len(dimensions) if weights is None else list(weights)

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the loss of the batch, or the part of one process."""
        total = 0 * emb_ND.sum()
        for width, weight in zip(self.dimensions, self.weights, strict=True):
            cut_ND = nn.functional.normalize(emb_ND[:, :width], dim=1)
            total = total + weight * local_loss(self.loss, cut_ND, batch, rank, world)
        return total

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the total weight of the inner loss."""
        return total_weight(self.loss, batch)

    def check_width(self, width: int) -> None:
        """Check that all dimensions exist, and the inner loss with each of them."""
        problems = list(dimension_problems("loss", self.dimensions, width))
        if problems:
            raise CheckFailed(problems)
        for dimensions in self.dimensions:
            check_width(self.loss, dimensions)


class Layers(SharedLoss):
    """A loss over the embeddings of several layers, so that the layers above any of them can be removed.

    Adds to the loss of the last layer the mean over `layers` (1 is the first) of `weight` times the loss of that layer
    and `alignment` times the Kullback-Leibler divergence of its similarities from those of the last layer, as softmax
    distributions at `temperature` without a gradient for the last layer. With loss=matryoshka inside, these are
    two-dimensional Matryoshka embeddings.

    Source: Li et al. 2024, https://arxiv.org/abs/2402.14776, equations 3 and 5, with given layers in place of random
    ones.
    """

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        loss: nn.Module,
        layers: Sequence[PositiveInt],
        weight: NotNegative = 1.0,
        alignment: NotNegative = 1.0,
        temperature: Positive = 0.3,
    ) -> None:
        super().__init__()
        if not layers:
            raise CheckFailed([Problem("loss.layers", "there is none.", "Set the layers, as in [2,4].")])
        self.loss = loss
        self.layers = sorted(layers)
        self.weight, self.alignment, self.temperature = weight, alignment, temperature

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the loss of the batch, or the part of one process, for embeddings `(N, L, D)`."""
        *earlier, last_ND = emb_ND.unbind(1)
        total = local_loss(self.loss, last_ND, batch, rank, world)
        for layer_ND in earlier:
            added = self.weight * local_loss(self.loss, layer_ND, batch, rank, world)
            if self.alignment:
                added = added + self.alignment * self._divergence(layer_ND, last_ND.detach()) / world
            total = total + added / len(earlier)
        return total

    def _divergence(self, layer_ND: Tensor, last_ND: Tensor) -> Tensor:
        layer_NN = nn.functional.log_softmax(layer_ND @ layer_ND.T / self.temperature, 1)
        last_NN = nn.functional.log_softmax(last_ND @ last_ND.T / self.temperature, 1)
        return nn.functional.kl_div(layer_NN, last_NN, reduction="batchmean", log_target=True)

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the total weight of the inner loss."""
        return total_weight(self.loss, batch)

    def check_width(self, width: int) -> None:
        """Check the inner loss."""
        check_width(self.loss, width)


class Sum(SharedLoss):
    """A weighted sum of named losses (weights of 1 by default)."""

    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, NotNegative] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not losses:
            raise CheckFailed([Problem("loss.losses", "there is none.", "Set at least one, under a name.")])
        unknown = sorted(weights.keys() - losses.keys())
        if unknown:
            what = f"there is no loss named {unknown[0]}."
            raise CheckFailed([Problem(f"loss.weights.{unknown[0]}", what, f"There are: {', '.join(losses)}.")])
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: weights.get(name, 1.0) for name in losses}

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the loss of the batch, or the part of one process."""
        total = 0 * emb_ND.sum()
        for name, loss in self.losses.items():
            total = total + self.weights[name] * local_loss(loss, emb_ND, batch, rank, world)
        return total

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the total weight of the first loss: the denominators of different losses cannot be combined."""
        first, *_ = self.losses.values()
        return total_weight(first, batch)

    def check_width(self, width: int) -> None:
        """Check the inner losses."""
        for loss in self.losses.values():
            check_width(loss, width)
