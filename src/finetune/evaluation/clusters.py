"""K-means, and how well clusters are classes.

Shapes: N items, C clusters, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS = 100  # of k-means; it nearly always stands still much sooner
_ROWS = 2**14  # of items whose distances are held at once


def k_means(emb_ND: NDArray[np.float32], clusters: int, seed: int, tries: int) -> Ints:
    """The cluster of each item `(N,)`: the best of some `tries` by the sum of squared distances.

    Begun by k-means++ (Arthur and Vassilvitskii 2007, https://dl.acm.org/doi/10.5555/1283383.1283494), then Lloyd's
    rounds until nothing moves.
    """
    points_ND = torch.as_tensor(emb_ND, dtype=torch.float32)
    points_ND = points_ND - points_ND.mean(0)  # distances from products lose no digits to a common shift
    random = np.random.default_rng(seed)
    found = [_lloyd(points_ND, _begin(points_ND, clusters, random)) for _ in range(tries)]
    return min(found, key=lambda one: one[1])[0].numpy()


def _begin(points_ND: Tensor, clusters: int, random: np.random.Generator) -> Tensor:
    chosen = [int(random.integers(len(points_ND)))]
    nearest_N = _squares(points_ND, points_ND[chosen])[:, 0]
    while len(chosen) < clusters:
        weight_N = nearest_N.double().cumsum(0)
        # Where all points are taken already, any will do.
        drawn = int(torch.searchsorted(weight_N, random.random() * float(weight_N[-1]), right=True))
        chosen.append(min(drawn, len(points_ND) - 1))
        nearest_N = torch.minimum(nearest_N, _squares(points_ND, points_ND[chosen[-1:]])[:, 0])
    return points_ND[chosen]


def _lloyd(points_ND: Tensor, centres_CD: Tensor) -> tuple[Tensor, float]:
    cluster_N = torch.full((len(points_ND),), -1)
    for _ in range(_ROUNDS):
        parts = [_squares(part, centres_CD).min(1) for part in torch.split(points_ND, _ROWS)]
        before_N, cluster_N = cluster_N, torch.cat([part.indices for part in parts])
        if torch.equal(before_N, cluster_N):
            break
        sums_CD = torch.zeros_like(centres_CD).index_add_(0, cluster_N, points_ND)
        count_C = torch.bincount(cluster_N, minlength=len(centres_CD))[:, None]
        # A cluster that lost all its members stays where it is.
        centres_CD = torch.where(count_C > 0, sums_CD / count_C.clamp(min=1), centres_CD)
    return cluster_N, float(torch.cat([part.values for part in parts]).double().sum())


def _squares(left_ND: Tensor, right_CD: Tensor) -> Tensor:
    """Squared distances `(N, C)`."""
    both_NC = left_ND @ right_CD.T
    return ((left_ND**2).sum(1)[:, None] - 2 * both_NC + (right_CD**2).sum(1)).clamp(min=0)


def v_measure(label_N: Ints, cluster_N: Ints) -> Floats:
    """Harmonic mean of homogeneity and completeness, as one share for each item `(N,)`, whose mean it is.

    Rosenberg and Hirschberg 2007, https://aclanthology.org/D07-1043. The shares are the measure and its influence
    function, as in `correlation.py`; 1 each where there is one class and one cluster, 0 where one says nothing.
    """
    class_N, cluster_N = (np.unique(values, return_inverse=True)[1].reshape(-1) for values in (label_N, cluster_N))
    both_N = np.unique(class_N * (cluster_N.max() + 1) + cluster_N, return_inverse=True)[1].reshape(-1)
    surprise_N, other_N, joint_N = (_surprise(values) for values in (class_N, cluster_N, both_N))
    of_class, of_cluster, mutual_N = surprise_N.mean(), other_N.mean(), surprise_N + other_N - joint_N
    if of_class + of_cluster <= 0:
        return np.ones(len(label_N))
    # Harmonic mean of I/H(class) and I/H(cluster) = 2 I / (H(class) + H(cluster)).
    v = 2 * mutual_N.mean() / (of_class + of_cluster)
    shares: Floats = v + (2 * mutual_N - v * (surprise_N + other_N)) / (of_class + of_cluster)
    return shares


def _surprise(group_N: Ints) -> Floats:
    """-log of the share of each item's group; the mean is the entropy."""
    surprise: Floats = -np.log(np.bincount(group_N) / len(group_N))[group_N]
    return surprise
