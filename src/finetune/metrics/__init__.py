"""Metrics of search, similarity, pairs, classes and clusters: the ones of an evaluation, for any other code too.

Each is a `torchmetrics.Metric`: `update` adds cases, `compute` returns the mean over the cases of all processes as a
scalar, `per_case` one value for each case. It can be logged by Lightning, `self.log("ndcg", metric)`, put into a
`torchmetrics.MetricCollection`, cloned, moved to a device, and saved.

Example:
    >>> import torch
    >>> from finetune.metrics import NDCG, rank_by_score
    >>> metric = NDCG(k=10)
    >>> scores = torch.tensor([[0.9, 0.2, 0.4], [0.3, 0.1, 0.8]])  # of each document, for each query
    >>> metric.update(*rank_by_score(scores, torch.eye(2, 3)))
    >>> metric.per_case()
    tensor([1.0000, 0.5000], dtype=torch.float64)
    >>> metric.compute()
    tensor(0.7500, dtype=torch.float64)

Modules: `retrieval` (ranked hits; describes the arguments of `update`), `pairs` (scored or classified pairs),
`classes` (predicted classes and clusters), `base` (what all have in common).
"""

from finetune.metrics.base import PerCaseMetric
from finetune.metrics.classes import Accuracy, VMeasure
from finetune.metrics.pairs import (
    AveragePrecision,
    BestAccuracy,
    BestF1,
    PairMetric,
    Pearson,
    Spearman,
    ThresholdMetric,
)
from finetune.metrics.retrieval import (
    DCG,
    MAP,
    MRR,
    NDCG,
    F1AtK,
    HitRate,
    PrecisionAtK,
    RankedHits,
    RecallAtK,
    RetrievalMetric,
    RPrecision,
    rank_by_score,
)

__all__ = [
    "DCG",
    "MAP",
    "MRR",
    "NDCG",
    "Accuracy",
    "AveragePrecision",
    "BestAccuracy",
    "BestF1",
    "F1AtK",
    "HitRate",
    "PairMetric",
    "Pearson",
    "PerCaseMetric",
    "PrecisionAtK",
    "RPrecision",
    "RankedHits",
    "RecallAtK",
    "RetrievalMetric",
    "Spearman",
    "ThresholdMetric",
    "VMeasure",
    "rank_by_score",
]
