import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import dcg_score

from finetune.evaluation.metric_values import retrieval_metrics
from finetune.evaluation.ranking import example_ranking
from finetune.metrics import DCG, MAP, MRR, NDCG, F1AtK, HitRate, PrecisionAtK, RecallAtK, RPrecision
from tests.metrics.measured import measured

# Two queries: A has hits of grades 0 2 1 and misses one of grade 3; B has no relevant hit.
GAINS = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
RELEVANT = np.array([3, 1])
IDEAL = np.array([[3.0, 2.0, 1.0], [1.0, 0.0, 0.0]])


def test_worked_by_hand() -> None:
    assert measured(RecallAtK(2), GAINS, RELEVANT) == pytest.approx([1 / 3, 0])
    assert measured(RecallAtK(3), GAINS, RELEVANT) == pytest.approx([2 / 3, 0])
    assert measured(PrecisionAtK(2), GAINS, RELEVANT) == pytest.approx([1 / 2, 0])
    assert measured(PrecisionAtK(10), GAINS, RELEVANT) == pytest.approx([2 / 10, 0])
    assert measured(HitRate(1), GAINS, RELEVANT) == pytest.approx([0, 0])
    assert measured(HitRate(2), GAINS, RELEVANT) == pytest.approx([1, 0])
    assert measured(MRR(1), GAINS, RELEVANT) == pytest.approx([0, 0])
    assert measured(MRR(3), GAINS, RELEVANT) == pytest.approx([1 / 2, 0])
    assert measured(MAP(3), GAINS, RELEVANT) == pytest.approx([(1 / 2 + 2 / 3) / 3, 0])
    dcg = 2 / np.log2(3) + 1 / np.log2(4)
    assert measured(NDCG(3), GAINS, RELEVANT, IDEAL) == pytest.approx([dcg / (3 + 2 / np.log2(3) + 1 / np.log2(4)), 0])


def test_a_query_without_right_documents_scores_zero() -> None:
    nothing = np.zeros((1, 3))
    assert measured(RecallAtK(3), nothing, [0]) == [0]
    assert measured(MAP(3), nothing, [0]) == [0]
    assert measured(NDCG(3), nothing, [0], nothing) == [0]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 30), st.integers(1, 40))
def test_equal_to_trec_eval(seed: int, queries: int, documents: int, k: int) -> None:
    random = np.random.default_rng(seed)
    # Grade 0 is judged and wrong, -1 stands for not judged; trec_eval counts negative grades as no gain too.
    grades = random.choice([-1, 0, 1, 2, 3], size=(queries, documents), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    ranking = random.permuted(np.tile(np.arange(documents), (queries, 1)), axis=1)
    qrels = {f"q{q}": {f"d{d}": int(g) for d, g in enumerate(row)} for q, row in enumerate(grades)}
    run = {f"q{q}": {f"d{d}": float(-rank) for rank, d in enumerate(row)} for q, row in enumerate(ranking)}
    names = {"recall", "P", "success", "map_cut", "ndcg_cut"}
    asked = {f"{name}.{k}" for name in names} | {"recip_rank", "Rprec"}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, asked)
    expected = evaluator.evaluate(run)

    gains = np.take_along_axis(grades, ranking, axis=1).astype(float)
    relevant = (grades > 0).sum(axis=1)
    ideal = -np.sort(-np.maximum(grades, 0), axis=1).astype(float)
    ours = {
        f"recall_{k}": measured(RecallAtK(k), gains, relevant),
        f"P_{k}": measured(PrecisionAtK(k), gains, relevant),
        f"success_{k}": measured(HitRate(k), gains, relevant),
        f"map_cut_{k}": measured(MAP(k), gains, relevant),
        f"ndcg_cut_{k}": measured(NDCG(k), gains, relevant, ideal),
        "recip_rank": measured(MRR(documents), gains, relevant),
        "Rprec": measured(RPrecision(), gains, relevant),
    }
    both = np.array([[expected[f"q{q}"][name] for q in range(queries)] for name in (f"P_{k}", f"recall_{k}")])
    f1 = np.divide(2 * both.prod(0), both.sum(0), out=np.zeros(queries), where=both.sum(0) > 0)
    np.testing.assert_allclose(measured(F1AtK(k), gains, relevant), f1, rtol=0, atol=1e-9)
    if documents > 1:  # scikit-learn refuses one document
        dcg = [dcg_score([row], [-np.arange(documents, dtype=float)], k=k) for row in np.maximum(gains, 0)]
        np.testing.assert_allclose(measured(DCG(k), gains, relevant), dcg, rtol=0, atol=1e-9)
    for name, values in ours.items():
        np.testing.assert_allclose(values, [expected[f"q{q}"][name] for q in range(queries)], rtol=0, atol=1e-9)


def test_every_name_selects_its_metric() -> None:
    names = ["nDCG@3", "DCG@2", "recall@2", "precision@2", "hit_rate@1", "F1@3", "MRR@3", "MAP@3", "R-precision"]
    metrics = retrieval_metrics(names, example_ranking())
    assert list(metrics) == names
    found = {name: measured(metric, GAINS, RELEVANT, IDEAL) for name, metric in metrics.items()}
    assert found["F1@3"] == pytest.approx([2 / 3, 0])
    assert found["R-precision"] == pytest.approx([2 / 3, 0])
    assert found["DCG@2"] == pytest.approx([2 / np.log2(3), 0])
    assert found["recall@2"] == pytest.approx([1 / 3, 0])
