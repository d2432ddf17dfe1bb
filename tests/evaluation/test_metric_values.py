"""Metrics that are given as objects: of torchmetrics, and of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics.retrieval as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import adjusted_rand_score, mean_squared_error, roc_auc_score
from torch import Tensor
from torchmetrics import Metric

from finetune.data.holdout.eval_data import LabelledItems, ScoredPairs
from finetune.errors import CheckFailed
from finetune.evaluation.clusters import k_means
from finetune.evaluation.comparison import compare
from finetune.evaluation.metric_values import cut_off
from finetune.evaluation.retrieval_task import prepare_task
from finetune.metrics import RetrievalMetric
from tests.evaluation.making import built, judgments

RANDOM = np.random.default_rng(0)
EMBEDDINGS = RANDOM.standard_normal((60, 4)).astype(np.float32)


CLASSIFICATION = "torchmetrics.classification"


def node(target: str, **arguments: object) -> dict[str, object]:
    return {"_target_": target, **arguments}


def random_task(seed: int, queries: int = 12, documents: int = 40):
    random = np.random.default_rng(seed)
    embeddings = random.standard_normal((queries + documents, 4)).astype(np.float32)
    grades = random.integers(0, 3, (queries, documents)) * (random.random((queries, documents)) < 0.3)
    grades[:, 0] = 1
    triples = [(q, d, grades[q, d]) for q in range(queries) for d in range(documents) if grades[q, d]]
    held = judgments(np.arange(queries), np.arange(queries, queries + documents), triples)
    # The recall of torchmetrics ignores documents with scores below 0.
    return (
        held,
        embeddings,
        torch.from_numpy(grades),
        torch.from_numpy(embeddings[:queries] @ embeddings[queries:].T + 100),
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32))
def test_metrics_of_torchmetrics_are_those_of_a_ranking_of_the_whole_corpus(seed):
    held, embeddings, grades, scores = random_task(seed)
    metrics = [
        (theirs.RetrievalNormalizedDCG(top_k=5), "RetrievalNormalizedDCG@5"),
        (theirs.RetrievalRecall(top_k=20), "RetrievalRecall@20"),
        (theirs.RetrievalMAP(top_k=7), "RetrievalMAP@7"),
        (theirs.RetrievalFallOut(top_k=5), "-RetrievalFallOut@5"),
        (theirs.RetrievalRPrecision(), "RetrievalRPrecision"),
    ]
    # All documents are needed for the number of irrelevant ones, by which the fall-out is divided.
    deep = theirs.RetrievalHitRate(top_k=40)
    specs = [
        node(f"torchmetrics.retrieval.{type(metric).__name__}", top_k=cut_off(metric)) for metric, _ in metrics[:-1]
    ]
    specs += [
        node("torchmetrics.retrieval.RetrievalRPrecision"),
        node("torchmetrics.retrieval.RetrievalHitRate", top_k=40),
    ]
    result = built("retrieval", metrics=specs, bm25=False).evaluate(held, lambda items: embeddings[items])
    assert [*result.per_query] == [*(name for _, name in metrics), "RetrievalHitRate@40"]
    rows = torch.arange(len(grades)).repeat_interleave(grades.shape[1])
    for metric, name in [*metrics, (deep, "RetrievalHitRate@40")]:
        target = grades.flatten() if name.startswith("RetrievalNormalizedDCG") else grades.flatten() > 0
        metric.update(scores.flatten(), target, indexes=rows)
        sign = -1 if name.startswith("-") else 1
        assert len(result.per_query[name]) == len(grades), "there is a value for each query"
        assert result.means[name] == pytest.approx(sign * float(metric.compute()), abs=1e-6), name


def test_a_metric_that_skips_queries_is_a_single_number():
    skipping = node("torchmetrics.retrieval.RetrievalFallOut", top_k=3, empty_target_action="skip")
    held = judgments([0, 1], [2, 3], [(0, 0, 1), (0, 1, 1), (1, 0, 1)])  # query 0 has no irrelevant document
    result = built("retrieval", metrics=[skipping], bm25=False).evaluate(held, lambda items: EMBEDDINGS[items])
    assert result.per_query["-RetrievalFallOut@3"].tolist() == [-1]


class Reached(RetrievalMetric):
    """The share of the ideal gain that the first two hits have."""

    label = "reached"

    def per_query(self, relevance_QK: Tensor, relevant_Q: Tensor, ideal_QI: Tensor) -> Tensor:
        return relevance_QK[:, :2].clamp(min=0).sum(1) / ideal_QI[:, :2].sum(1)


class RelevantHits(Metric):
    """A metric of its own kind: the number of relevant hits of all queries, of the worst query."""

    higher_is_better = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.top_k = 10
        self.add_state("fewest", torch.tensor(torch.inf), dist_reduce_fx="min")

    def update(self, relevance: Tensor) -> None:
        self.fewest = torch.minimum(self.fewest, (relevance[:, :10] > 0).sum(1).min())

    def compute(self) -> Tensor:
        return self.fewest


def test_ones_own_metrics_with_and_without_a_value_for_each_query(monkeypatch):
    monkeypatch.setenv("FINETUNE_ALLOW", "tests.evaluation.test_metric_values")
    held, embeddings, _, _ = random_task(1)
    here = "tests.evaluation.test_metric_values"
    specs = [node(f"{here}.RelevantHits"), "nDCG@10", node(f"{here}.Reached")]
    evaluator = built("retrieval", metrics=specs, bm25=False)
    before = evaluator.evaluate(held, lambda items: embeddings[items])
    after = evaluator.evaluate(held, lambda items: -embeddings[items] + np.float32(0.5))
    assert before.headline == "-RelevantHits@10"
    assert [len(values) for values in before.per_query.values()] == [1, 12, 12]
    gains = before.gains[:, :2].sum(1)
    assert before.means["-RelevantHits@10"] == -int((before.gains > 0).sum(1).min())
    np.testing.assert_allclose(before.per_query["reached"], gains / prepare_task(held)[0].ideal(2)[0].sum(1))
    compared = compare(before, after)
    assert "cannot be tested" in compared.verdict
    assert compared.rows[1].change.queries == 12
    # The queries that changed most are those of the first metric with a value for each query.
    assert before.per_case_metric == "nDCG@10"
    assert len(compared.changes) == 12
    assert len(compared.gained(20)) + len(compared.lost(20)) > 1


def test_scored_pairs():
    left, right = np.arange(30), np.arange(30, 60)
    score = np.round(RANDOM.standard_normal(30), 1)
    cosine = (EMBEDDINGS[left] * EMBEDDINGS[right]).sum(1) / (
        np.linalg.norm(EMBEDDINGS[left], axis=1) * np.linalg.norm(EMBEDDINGS[right], axis=1)
    )
    held = ScoredPairs("test", left, right, score)
    specs = [node("torchmetrics.regression.KendallRankCorrCoef"), node("torchmetrics.regression.MeanSquaredError")]
    found = built("similarity", metrics=specs).evaluate(held, lambda rows: EMBEDDINGS[rows])
    assert [*found.per_query] == [
        f"{name} cosine" for name in ("Spearman", "Pearson", "KendallRankCorrCoef", "-MeanSquaredError")
    ]
    assert found.means["KendallRankCorrCoef cosine"] == pytest.approx(kendalltau(cosine, score)[0], abs=1e-5)
    assert found.means["-MeanSquaredError cosine"] == pytest.approx(-mean_squared_error(score, cosine), rel=1e-5)
    held = ScoredPairs("test", left, right, (score > 0).astype(float))
    specs = ["accuracy", node("torchmetrics.classification.BinaryAUROC")]
    found = built("pair_classification", metrics=specs).evaluate(held, lambda rows: EMBEDDINGS[rows])
    assert found.headline == "accuracy cosine"
    assert found.means["BinaryAUROC cosine"] == pytest.approx(roc_auc_score(score > 0, cosine), abs=1e-6)
    assert found.notes[0].startswith("accuracy cosine: pairs of at least")


def test_classes_and_clusters():
    label = np.repeat(np.arange(3), 20)
    held = LabelledItems("test", np.arange(60), label, np.arange(60) % 2 == 0)
    f1 = node("torchmetrics.classification.MulticlassF1Score", num_classes=3, average="macro")
    found = built("classification", metrics=["accuracy", f1], by=["neighbours"]).evaluate(
        held, lambda rows: EMBEDDINGS[rows]
    )
    assert [*found.per_query] == ["accuracy 5 neighbours", "MulticlassF1Score 5 neighbours"]
    assert 0 < found.means["MulticlassF1Score 5 neighbours"] < 1
    specs = [node(f"torchmetrics.clustering.{name}") for name in ("AdjustedRandScore", "CalinskiHarabaszScore")]
    evaluator = built("clustering", metrics=["V-measure", *specs])
    found = evaluator.evaluate(held, lambda rows: EMBEDDINGS[rows])
    assert [*found.per_query] == ["V-measure", "AdjustedRandScore", "CalinskiHarabaszScore"]
    rows = np.flatnonzero(~held.known)
    clusters = k_means(EMBEDDINGS[rows], 3, 0, 5)
    assert found.means["AdjustedRandScore"] == pytest.approx(adjusted_rand_score(label[rows], clusters), abs=1e-6)


@pytest.mark.parametrize(
    ("group", "metric", "sentence"),
    [
        ("retrieval", node("torchmetrics.retrieval.RetrievalPrecisionRecallCurve", max_k=3), "is not one number"),
        ("classification", node(f"{CLASSIFICATION}.MulticlassConfusionMatrix", num_classes=3), "is not one number"),
        ("classification", node(f"{CLASSIFICATION}.MultilabelF1Score", num_labels=3), "cannot be computed"),
        ("retrieval", node("torchmetrics.clustering.DunnIndex"), "update of DunnIndex needs data, labels"),
        ("retrieval", node("torchmetrics.retrieval.RetrievalMRR", aggregation="most"), "refuses its arguments"),
        ("retrieval", node("finetune.evaluation.bm25.is_installed"), "bool is not a torchmetrics.Metric"),
        ("retrieval", "nDGC@10", "Did you mean nDCG@10?"),
        ("clustering", "AMI", "there is no metric 'AMI'"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_when_it_is_built(group, metric, sentence):
    with pytest.raises(CheckFailed) as failed:
        built(group, metrics=[metric])
    assert sentence in str(failed.value)


def test_two_objects_of_the_same_name_are_refused():
    specs = [node("torchmetrics.retrieval.RetrievalMRR", top_k=k) for k in (3, 3)]
    with pytest.raises(CheckFailed, match="two metrics have the name RetrievalMRR@3"):
        built("retrieval", metrics=specs)
