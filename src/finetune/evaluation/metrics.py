"""Retrieval metrics per query, vectorized; definitions and values are those of trec_eval.

`gains_QK` holds the graded relevance of the ranked hits of Q queries, best first; a gain above 0 is relevant.
`relevant_Q` counts all relevant documents of a query, found or not. Every function returns (Q,) float64, which is 0
for a query without any relevant document. Missing hits count as not relevant. Hits of equal scores are in the order of
the corpus (`search.top_k`), whereas trec_eval sorts them by document id, descending.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.metric_names import parse_metric

Floats = NDArray[np.floating]
Result = NDArray[np.float64]


def measure(
    names: Sequence[str], gains_QK: Floats, relevant_Q: NDArray[np.integer], ideal_QK: Floats
) -> dict[str, Result]:
    """Return the metrics of these names, such as `nDCG@10` or `R-precision`; `gains_QK` is wide enough for all of them.

    Raises:
        CheckFailed: there is no such metric.
    """
    return {name: _one(*parse_metric(name), gains_QK, relevant_Q, ideal_QK) for name in names}


def _one(kind: str, k: int | None, gains_QK: Floats, relevant_Q: NDArray[np.integer], ideal_QK: Floats) -> Result:
    if k is None:
        return r_precision(gains_QK, relevant_Q)
    if kind == "nDCG":
        return ndcg(gains_QK, ideal_QK, k)
    of_hits = {"DCG": dcg, "precision": precision, "hit_rate": hit_rate, "MRR": reciprocal_rank}
    if kind in of_hits:
        return of_hits[kind](gains_QK, k)
    return {"recall": recall, "F1": f1, "MAP": average_precision}[kind](gains_QK, relevant_Q, k)


def recall(gains_QK: Floats, relevant_Q: NDArray[np.integer], k: int) -> Result:
    """Fraction of a query's relevant documents that are among its first k hits."""
    return _share(_found(gains_QK, k).sum(axis=1), relevant_Q)


def precision(gains_QK: Floats, k: int) -> Result:
    """Fraction of relevant ones among the first k hits; divided by k even if there are fewer hits."""
    return np.asarray(_found(gains_QK, k).sum(axis=1) / k, dtype=np.float64)


def f1(gains_QK: Floats, relevant_Q: NDArray[np.integer], k: int) -> Result:
    """Harmonic mean of precision@k and recall@k."""
    found_Q = _found(gains_QK, k).sum(axis=1)
    return _share(2.0 * found_Q, np.where(relevant_Q > 0, relevant_Q + k, 0))


def r_precision(gains_QK: Floats, relevant_Q: NDArray[np.integer]) -> Result:
    """Fraction of relevant ones among the first R hits, R the number of relevant documents of the query (Rprec)."""
    inside_QK = np.arange(gains_QK.shape[1]) < relevant_Q[:, None]
    return _share(((gains_QK > 0) & inside_QK).sum(axis=1), relevant_Q)


def hit_rate(gains_QK: Floats, k: int) -> Result:
    """1 if any of the first k hits is relevant (trec_eval's success)."""
    return np.asarray(_found(gains_QK, k).any(axis=1), dtype=np.float64)


def reciprocal_rank(gains_QK: Floats, k: int) -> Result:
    """1 / rank of the first relevant of the first k hits; its mean is MRR@k."""
    found_Qk = _found(gains_QK, k)
    # argmax returns the first True.
    return np.where(found_Qk.any(axis=1), 1.0 / (found_Qk.argmax(axis=1) + 1), 0.0)


def average_precision(gains_QK: Floats, relevant_Q: NDArray[np.integer], k: int) -> Result:
    """Sum of precision@i over the ranks i <= k of relevant hits, divided by all relevant documents (map_cut)."""
    found_Qk = _found(gains_QK, k)
    precision_Qk = found_Qk.cumsum(axis=1) / np.arange(1, found_Qk.shape[1] + 1)
    return _share((precision_Qk * found_Qk).sum(axis=1), relevant_Q)


def ndcg(gains_QK: Floats, ideal_QK: Floats, k: int) -> Result:
    """DCG@k divided by that of the ideal ranking, with linear gain and log2(rank + 1) as discount (ndcg_cut).

    `ideal_QK` holds each query's grades in descending order, padded with zeros, at least k of them or all.
    Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418, as trec_eval computes it.
    """
    return _share(dcg(gains_QK, k), dcg(ideal_QK, k))


def dcg(gains_QK: Floats, k: int) -> Result:
    """Sum of the gains of the first k hits, each divided by log2(rank + 1); negative gains count as 0."""
    gains_Qk = np.maximum(gains_QK[:, :k], 0.0, dtype=np.float64)
    return np.asarray(gains_Qk @ (1.0 / np.log2(np.arange(2, gains_Qk.shape[1] + 2))), dtype=np.float64)


def _found(gains_QK: Floats, k: int) -> NDArray[np.bool_]:
    return gains_QK[:, :k] > 0


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> Result:
    share: Result = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return share
