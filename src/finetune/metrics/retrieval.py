"""Ranking metrics of a search; definitions and values are those of trec_eval.

`update` takes the hits of Q queries, best first: `relevance` (Q, K), the graded relevance of each hit, above 0 if it is
relevant; `relevant` (Q,), the number of all relevant documents of each query, found or not; and `ideal` (Q, I), the
grades of the relevant documents of each query, descending and padded with 0, as many as the cut-off or all. Without
`ideal` all relevant documents have grade 1. Missing hits count as not relevant, and so do grades below 0.
`rank_by_score` computes these arguments from scores.

A metric is the mean over the queries. The value of a query without any relevant document is 0.

Shapes: Q queries, M documents, K hits, I relevant documents, k cut-off.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from finetune.arguments import is_whole_number
from finetune.errors import FinetuneError
from finetune.metrics.base import PerCaseMetric, concatenated

_ROUNDING = 1e-5  # values above 1 by less are rounding errors, also in float32


class RankedHits(NamedTuple):
    """The arguments of `update` of all ranking metrics: see the description of the module."""

    relevance: Tensor
    relevant: Tensor
    ideal: Tensor


def rank_by_score(scores: Tensor, grades: Tensor, k: int | None = None) -> RankedHits:
    """Return the k documents with the highest scores of each query, all without `k`, for `update` of a metric.

    `scores` (Q, M) are those of all documents, `grades` (Q, M) their relevance, 0 for irrelevant ones. Of equal scores
    the smaller index is first.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.4]])
        >>> grades = torch.tensor([[0, 1, 0], [1, 0, 2]])
        >>> rank_by_score(scores, grades, k=2).relevance
        tensor([[1, 0],
                [2, 0]])

    Raises:
        FinetuneError: the shapes differ, or are not (Q, M); `k` is not a whole number from 1.
    """
    if k is not None and not is_whole_number(k):
        raise FinetuneError(f"rank_by_score: the cut-off k is {k!r}.", "Give a number of hits, 1 or more.")
    if scores.ndim != 2 or scores.shape != grades.shape:
        raise FinetuneError(
            f"the scores have the shape {tuple(scores.shape)} and the grades {tuple(grades.shape)}.",
            "Give both for each query and each document: (Q, M).",
        )
    order_QK = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    # Grades may be bool, which cannot be sorted on every device.
    grades_QM = grades.clamp(min=0) if grades.dtype != torch.bool else grades.int()
    ideal_QM = grades_QM.sort(dim=1, descending=True).values
    return RankedHits(grades_QM.gather(1, order_QK), (grades_QM > 0).sum(1), ideal_QM)


class RetrievalMetric(PerCaseMetric):
    """The base class of metrics of ranked hits: a subclass defines the value of each query in `per_query`.

    `k` is the number of hits that count, all without it.

    Example:
        >>> class FirstIsRight(RetrievalMetric):
        ...     def per_query(self, relevance_QK, relevant_Q, ideal_QI):
        ...         return (relevance_QK[:, 0] > 0).double()
        >>> metric = FirstIsRight()
        >>> metric.update([[1, 0], [0, 1]], [1, 1])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
        >>> metric.per_case()
        tensor([1., 0.], dtype=torch.float64)

    Raises:
        FinetuneError: `k` is below 1.
    """

    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    def __init__(self, k: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k is not None and not is_whole_number(k):
            raise FinetuneError(f"{type(self).__name__}: the cut-off k is {k!r}.", "Give a number of hits, 1 or more.")
        self.k = k
        # A MetricCollection merges metrics whose states have equal names and values, and updates only one of them:
        # recall@1 and hit_rate@1 may be equal at first. So each metric has a name of its own.
        self._state = f"{type(self).__name__}_{k or 'all'}"
        self.add_state(self._state, [], dist_reduce_fx="cat")

    @abstractmethod
    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries; the arguments are those of `update`, as floating-point tensors."""

    def update(self, relevance: Any, relevant: Any, ideal: Any = None) -> None:
        """Add queries; tensors, arrays or lists, see the description of the module. Does not wait for the device.

        Raises:
            FinetuneError: the shapes are not (Q, K), (Q,) and (Q, I).
        """
        relevance_QK, relevant_Q = self.to_floats(relevance), self.to_row(relevant, "relevant")
        if ideal is None:
            ranks_K = torch.arange(max(relevance_QK.shape[-1], self.k or 0), device=self.device)
            ideal = ranks_K < relevant_Q[:, None]
        ideal_QI = self.to_floats(ideal)
        if relevance_QK.ndim != 2 or ideal_QI.ndim != 2:
            raise FinetuneError(
                f"{type(self).__name__}: relevance has {relevance_QK.ndim} and ideal {ideal_QI.ndim} dimensions.",
                "Give a row for each query: (Q, K).",
            )
        self.check_lengths(relevance=len(relevance_QK), relevant=len(relevant_Q), ideal=len(ideal_QI))
        getattr(self, self._state).append(self.per_query(relevance_QK, relevant_Q, ideal_QI))

    def values(self) -> Tensor:
        """Return the values `(Q,)` of the queries of this process."""
        return concatenated(getattr(self, self._state), self.to_floats([]))


class NDCG(RetrievalMetric):
    """DCG@k divided by that of the ideal ranking, with linear gain and log2(rank + 1) as discount (ndcg_cut).

    Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418, as trec_eval computes it.

    Example:
        >>> metric = NDCG(k=10)
        >>> metric.update(relevance=[[0, 2, 1]], relevant=[3], ideal=[[3, 2, 1]])
        >>> print(f"{metric.compute():.4f}")
        0.3700
    """

    label: ClassVar[str] = "nDCG"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        return _ratio(_dcg(relevance_QK[:, : self.k]), _dcg(ideal_QI[:, : self.k]))

    def values(self) -> Tensor:
        """Return the values `(Q,)` of the queries of this process.

        Raises:
            FinetuneError: one is above 1, so `ideal` was missing or incomplete in an update.
        """
        values_Q = super().values()
        too_large = int((values_Q > 1 + _ROUNDING).sum())
        if too_large:
            raise FinetuneError(
                f"NDCG: {too_large:,} of {len(values_Q):,} queries have hits of higher grades than the ideal ranking.",
                "Give update the grades of all relevant documents: ideal=..., see rank_by_score.",
            )
        return values_Q


class DCG(RetrievalMetric):
    """Sum of the grades of the first k hits, each divided by log2(rank + 1); grades below 0 count as 0.

    Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.

    Example:
        >>> metric = DCG(k=10)
        >>> metric.update(relevance=[[0, 2, 1]], relevant=[3])
        >>> print(f"{metric.compute():.4f}")
        1.7619
    """

    label: ClassVar[str] = "DCG"
    plot_upper_bound: float | None = None

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        return _dcg(relevance_QK[:, : self.k])


class RecallAtK(RetrievalMetric):
    """Fraction of a query's relevant documents that are among its first k hits (trec_eval's recall).

    Example:
        >>> metric = RecallAtK(k=2)
        >>> metric.update(relevance=[[0, 1, 1], [1, 0, 0]], relevant=[2, 1])
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    label: ClassVar[str] = "recall"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        return _ratio(_found(relevance_QK, self.k).sum(1), relevant_Q)


class PrecisionAtK(RetrievalMetric):
    """Fraction of relevant ones among the first k hits; divided by k even if there are fewer hits (trec_eval's P).

    Example:
        >>> metric = PrecisionAtK(k=2)
        >>> metric.update(relevance=[[0, 1, 1], [1, 0, 0]], relevant=[2, 1])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    label: ClassVar[str] = "precision"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        found_Q = _found(relevance_QK, self.k).sum(1, dtype=relevance_QK.dtype)
        return found_Q / max(1, self.k or relevance_QK.shape[1])


class F1AtK(RetrievalMetric):
    """Harmonic mean of precision@k and recall@k.

    Example:
        >>> metric = F1AtK(k=2)
        >>> metric.update(relevance=[[0, 1, 1]], relevant=[2])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    label: ClassVar[str] = "F1"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        hits = self.k or relevance_QK.shape[1]
        found_Q = _found(relevance_QK, self.k).sum(1)
        return _ratio(2 * found_Q, (relevant_Q + hits) * (relevant_Q > 0))


class HitRate(RetrievalMetric):
    """1 if any of the first k hits is relevant (trec_eval's success; accuracy@k of sentence-transformers).

    Example:
        >>> metric = HitRate(k=2)
        >>> metric.update(relevance=[[0, 1, 1], [0, 0, 1]], relevant=[2, 1])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    label: ClassVar[str] = "hit_rate"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        return _found(relevance_QK, self.k).any(1).to(relevance_QK.dtype)


class MRR(RetrievalMetric):
    """Mean of 1 / rank of the first relevant one of the first k hits, 0 if there is none (trec_eval's recip_rank).

    Example:
        >>> metric = MRR(k=10)
        >>> metric.update(relevance=[[0, 1, 1], [1, 0, 0]], relevant=[2, 1])
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    label: ClassVar[str] = "MRR"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        found_Qk = _found(relevance_QK, self.k)
        is_first_Qk = found_Qk & (found_Qk.cumsum(1) == 1)
        return (is_first_Qk / _ranks(relevance_QK[:, : self.k])).sum(1)


class MAP(RetrievalMetric):
    """Mean of the sum of precision@i over the ranks i <= k of relevant hits / number of relevant documents (map_cut).

    Example:
        >>> metric = MAP(k=100)
        >>> metric.update(relevance=[[0, 1, 1]], relevant=[3])
        >>> print(f"{metric.compute():.4f}")
        0.3889
    """

    label: ClassVar[str] = "MAP"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        found_Qk = _found(relevance_QK, self.k)
        precision_Qk = found_Qk.cumsum(1) / _ranks(relevance_QK[:, : self.k])
        return _ratio((precision_Qk * found_Qk).sum(1), relevant_Q)


class RPrecision(RetrievalMetric):
    """Fraction of relevant ones among the first R hits, R the number of relevant documents of the query (Rprec).

    The hits must be at least as many as the relevant documents of any query.

    Example:
        >>> metric = RPrecision()
        >>> metric.update(relevance=[[0, 1, 1]], relevant=[2])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    label: ClassVar[str] = "R-precision"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(None, **kwargs)

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        """Return the values (Q,) of queries."""
        is_inside_QK = _ranks(relevance_QK) <= relevant_Q[:, None]
        return _ratio((_found(relevance_QK, None) & is_inside_QK).sum(1), relevant_Q)


def _found(relevance_QK: Tensor, k: int | None) -> Tensor:
    return relevance_QK[:, :k] > 0


def _ranks(relevance_QK: Tensor) -> Tensor:
    """Return the ranks (K,) from 1, in the type of the relevance: quotients of whole numbers would be float32."""
    return torch.arange(1, relevance_QK.shape[1] + 1, device=relevance_QK.device, dtype=relevance_QK.dtype)


def _dcg(gains_Qk: Tensor) -> Tensor:
    return gains_Qk.clamp(min=0) @ (1 / torch.log2(_ranks(gains_Qk) + 1))


def _ratio(part_Q: Tensor, whole_Q: Tensor) -> Tensor:
    """Return the quotients, 0 where the divisor is 0."""
    return torch.where(whole_Q > 0, part_Q / whole_Q, 0.0)
