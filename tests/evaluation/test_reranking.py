"""Reranking: the metrics of pytrec_eval over the candidates only."""

import numpy as np
import pytest
import pytrec_eval

from finetune.data.holdout.judgments import Judgments
from finetune.errors import FinetuneError
from tests.evaluation.making import built


def judgments(queries=12, documents=40, seed=0):
    """Queries, followed by documents; each query has several judged documents, at least one of them right."""
    random = np.random.default_rng(seed)
    pairs = {(q, int(d)) for q in range(queries) for d in random.choice(documents, 5, replace=False)}
    query, document = np.array(sorted(pairs)).T
    grade = random.integers(0, 3, len(query)).astype(np.float64)
    grade[np.unique(query, return_index=True)[1]] = 2
    return Judgments("made", np.arange(queries), np.arange(queries, queries + documents), query, document, grade)


def evaluator(**settings):
    metrics = ["nDCG@10", "recall@1", "recall@5", "MRR@10", "MAP@100"]
    return built("reranking", **{"metrics": metrics, "candidates": 10, "queries": None, **settings})


def test_as_trec_eval():
    given, seen = judgments(), {}

    def rate(left, right):
        scores = np.random.default_rng(1).normal(size=len(left)).astype(np.float32)
        for q, d, score in zip(left, right, scores, strict=True):
            seen.setdefault(str(q), {})[str(d)] = float(score)
        return scores

    result = evaluator().evaluate(given, rate)
    qrels = {}
    for q, d, grade in zip(given.query_index, given.document_index, given.grade, strict=True):
        qrels.setdefault(str(q), {})[str(given.corpus[d])] = int(grade)
    assert all(len(documents) == 10 for documents in seen.values())
    assert all(qrels[q].keys() <= seen[q].keys() for q in qrels)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10", "recall_5", "map_cut_100"}).evaluate(seen)
    for ours, name in (("nDCG@10", "ndcg_cut_10"), ("recall@5", "recall_5"), ("MAP@100", "map_cut_100")):
        expected = [theirs[str(q)][name] for q in result.queries]
        np.testing.assert_allclose(result.per_query[ours], expected, atol=1e-9)


def test_all_models_get_the_same_candidates_and_queries():
    asked = []

    def rate(left, right):
        asked.append((left, right))
        return np.zeros(len(left), np.float32)

    for _ in range(2):
        assert len(evaluator(queries=5).evaluate(judgments(), rate).queries) == 5
    assert all((a == b).all() for a, b in zip(*asked, strict=True))


def test_no_query_is_its_own_candidate_and_all_judged_documents_count():
    given = judgments()
    given = Judgments("made", given.corpus[:12], given.corpus, given.query_index, given.document_index, given.grade)

    def rate(left, right):
        assert (left != right).all()
        assert np.bincount(left).max() >= 4
        return np.zeros(len(left), np.float32)

    evaluator(candidates=2).evaluate(given, rate)


def test_non_finite_scores_are_an_error():
    with pytest.raises(FinetuneError, match="finite"):
        evaluator().evaluate(judgments(), lambda left, right: np.full(len(left), np.nan, np.float32))
