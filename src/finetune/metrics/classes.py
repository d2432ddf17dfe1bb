"""Metrics of classes: accuracy of predicted ones, and the agreement of clusters with them.

Shapes: N items.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.metrics.base import PerCaseMetric, concatenated

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Accuracy(PerCaseMetric):
    """The share of items whose class is predicted correctly.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(preds=[0, 1, 1, 2], target=[0, 1, 2, 2])
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    label: ClassVar[str] = "accuracy"
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    correct: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("correct", [], dist_reduce_fx="cat")

    def update(self, preds: Any, target: Any) -> None:
        """Add items: their predicted classes `preds` (N,), and their right ones `target` (N,); whole numbers.

        Raises:
            FinetuneError: the shapes are not (N,), or differ.
        """
        preds_N, target_N = self.to_rows(preds=preds, target=target)
        self.correct.append((preds_N == target_N).to(preds_N.dtype))

    def values(self) -> Tensor:
        """Return 1 for each item `(N,)` of this process whose class was predicted, else 0."""
        return concatenated(self.correct, self.to_floats([]))


class VMeasure(PerCaseMetric):
    """The V-measure of clusters: the harmonic mean of homogeneity and completeness.

    Rosenberg and Hirschberg 2007, https://aclanthology.org/D07-1043. Its value is the mean of one share for each item:
    the measure plus its influence function, as in `finetune.metrics.pairs`. All shares are 1 for one class and one
    cluster, 0 if only one of the two is constant.

    Example:
        >>> metric = VMeasure()
        >>> metric.update(preds=[5, 5, 7, 7], target=[0, 0, 1, 1])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    label: ClassVar[str] = "V-measure"
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    clusters: list[Tensor]
    classes: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("clusters", [], dist_reduce_fx="cat")
        self.add_state("classes", [], dist_reduce_fx="cat")

    def update(self, preds: Any, target: Any) -> None:
        """Add items: their clusters `preds` (N,), and their classes `target` (N,); whole numbers.

        Raises:
            FinetuneError: the shapes are not (N,), or differ.
        """
        preds_N, target_N = self.to_rows(preds=preds, target=target)
        self.clusters.append(preds_N)
        self.classes.append(target_N)

    def values(self) -> Tensor:
        """Return the share `(N,)` of each item of this process, computed from arrays on the CPU."""
        empty = self.to_floats([])
        shares_N = _v_measure(
            concatenated(self.classes, empty).cpu().numpy(), concatenated(self.clusters, empty).cpu().numpy()
        )
        return self.to_floats(torch.from_numpy(shares_N))


def _v_measure(class_N: Floats, cluster_N: Floats) -> Floats:
    if not len(class_N):
        return np.zeros(0)
    label_N, group_N = _renumber(class_N), _renumber(cluster_N)
    both_N = _renumber(label_N * (group_N.max() + 1) + group_N)
    class_surprise_N, cluster_surprise_N = _surprise(label_N), _surprise(group_N)
    mutual_N = class_surprise_N + cluster_surprise_N - _surprise(both_N)
    entropies = class_surprise_N.mean() + cluster_surprise_N.mean()
    if entropies <= 0:
        return np.ones(len(label_N))
    # Harmonic mean of I/H(class) and I/H(cluster) = 2 I / (H(class) + H(cluster)).
    v = 2 * mutual_N.mean() / entropies
    shares: Floats = v + (2 * mutual_N - v * (class_surprise_N + cluster_surprise_N)) / entropies
    return shares


def _renumber(group_N: NDArray[Any]) -> Ints:
    """Return the groups numbered from 0 without gaps."""
    _, number_N = np.unique(group_N, return_inverse=True)
    return number_N.reshape(-1)


def _surprise(group_N: Ints) -> Floats:
    """Return -log of the fraction of items in each item's group; the mean is the entropy."""
    surprise: Floats = -np.log(np.bincount(group_N) / len(group_N))[group_N]
    return surprise
