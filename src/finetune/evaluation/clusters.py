"""K-means.

Shapes: N items, C clusters, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]

_ROUNDS = 100  # maximum of k-means; it nearly always converges much earlier
_ROWS = 2**14  # items whose distances are in memory at the same time


def k_means(emb_ND: NDArray[np.float32], clusters: int, seed: int, tries: int) -> Ints:
    """Return the cluster of each item `(N,)`: the best of several `tries` by the sum of squared distances.

    Initialized by k-means++ (Arthur and Vassilvitskii 2007, https://dl.acm.org/doi/10.5555/1283383.1283494), followed
    by Lloyd's algorithm until convergence.
    """
    points_ND = torch.as_tensor(emb_ND, dtype=torch.float32)
    points_ND = points_ND - points_ND.mean(0)  # distances computed from products lose no digits to a common offset
    random = np.random.default_rng(seed)
    results = [_lloyd(points_ND, _kmeans_plus_plus(points_ND, clusters, random)) for _ in range(tries)]
    cluster_N, _ = min(results, key=lambda result: result[1])
    return cluster_N.numpy()


def _kmeans_plus_plus(points_ND: Tensor, clusters: int, random: np.random.Generator) -> Tensor:
    chosen = [int(random.integers(len(points_ND)))]
    nearest_N = _squares(points_ND, points_ND[chosen])[:, 0]
    while len(chosen) < clusters:
        weight_N = nearest_N.double().cumsum(0)
        # If all points coincide with chosen ones, any of them is chosen.
        drawn = int(torch.searchsorted(weight_N, random.random() * float(weight_N[-1]), right=True))
        chosen.append(min(drawn, len(points_ND) - 1))
        nearest_N = torch.minimum(nearest_N, _squares(points_ND, points_ND[chosen[-1:]])[:, 0])
    return points_ND[chosen]


def _lloyd(points_ND: Tensor, centers_CD: Tensor) -> tuple[Tensor, float]:
    cluster_N = torch.full((len(points_ND),), -1)
    for _ in range(_ROUNDS):
        parts = [_squares(part, centers_CD).min(1) for part in torch.split(points_ND, _ROWS)]
        before_N, cluster_N = cluster_N, torch.cat([part.indices for part in parts])
        if torch.equal(before_N, cluster_N):
            break
        sums_CD = torch.zeros_like(centers_CD).index_add_(0, cluster_N, points_ND)
        count_C = torch.bincount(cluster_N, minlength=len(centers_CD))[:, None]
        # A cluster without members keeps its center.
        centers_CD = torch.where(count_C > 0, sums_CD / count_C.clamp(min=1), centers_CD)
    return cluster_N, float(torch.cat([part.values for part in parts]).double().sum())


def _squares(left_ND: Tensor, right_CD: Tensor) -> Tensor:
    """Return the squared distances `(N, C)`."""
    both_NC = left_ND @ right_CD.T
    return ((left_ND**2).sum(1)[:, None] - 2 * both_NC + (right_CD**2).sum(1)).clamp(min=0)
