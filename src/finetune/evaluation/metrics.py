"""Retrieval metrics per query, over whole arrays; definitions and values are trec_eval's.

`gains_QK` holds the graded relevance of the ranked hits of Q queries, best first; a gain above 0 is relevant.
`relevant_Q` counts all relevant documents of a query, found or not. Every function returns (Q,) float64, which is 0
for a query without any relevant document. Fewer than k hits count as if the rest were wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Result = NDArray[np.float64]


def recall(gains_QK: Floats, relevant_Q: NDArray[np.integer], k: int) -> Result:
    """Share of a query's relevant documents among its first k hits."""
    return _share(_found(gains_QK, k).sum(axis=1), relevant_Q)


def precision(gains_QK: Floats, k: int) -> Result:
    """Share of relevant ones among the first k places; divided by k also when there are fewer hits."""
    return np.asarray(_found(gains_QK, k).sum(axis=1) / k, dtype=np.float64)


def hit_rate(gains_QK: Floats, k: int) -> Result:
    """1 where any of the first k hits is relevant (trec_eval's success)."""
    return np.asarray(_found(gains_QK, k).any(axis=1), dtype=np.float64)


def reciprocal_rank(gains_QK: Floats, k: int) -> Result:
    """1 / rank of the first relevant of the first k hits; its mean is MRR@k."""
    found_Qk = _found(gains_QK, k)
    # argmax gives the first True.
    return np.where(found_Qk.any(axis=1), 1.0 / (found_Qk.argmax(axis=1) + 1), 0.0)


def average_precision(gains_QK: Floats, relevant_Q: NDArray[np.integer], k: int) -> Result:
    """Sum of precision@i over the ranks i <= k of relevant hits, divided by all relevant documents (map_cut)."""
    found_Qk = _found(gains_QK, k)
    precision_Qk = found_Qk.cumsum(axis=1) / np.arange(1, found_Qk.shape[1] + 1)
    return _share((precision_Qk * found_Qk).sum(axis=1), relevant_Q)


def ndcg(gains_QK: Floats, ideal_QK: Floats, k: int) -> Result:
    """DCG@k over that of the ideal ranking, with linear gain and log2(rank + 1) as discount (ndcg_cut).

    `ideal_QK` holds each query's grades in descending order, zeros behind them, for at least k places or for all.
    Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418, as trec_eval computes it.
    """
    return _share(_dcg(gains_QK, k), _dcg(ideal_QK, k))


def _dcg(gains_QK: Floats, k: int) -> Result:
    gains_Qk = np.maximum(gains_QK[:, :k], 0.0, dtype=np.float64)
    return np.asarray(gains_Qk @ (1.0 / np.log2(np.arange(2, gains_Qk.shape[1] + 2))), dtype=np.float64)


def _found(gains_QK: Floats, k: int) -> NDArray[np.bool_]:
    return gains_QK[:, :k] > 0


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> Result:
    share: Result = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return share
