import inspect
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import yaml

from finetune.config.check import check
from finetune.data.judgments import Judgments
from finetune.errors import CheckFailed, FinetuneError
from finetune.evaluation.retrieval import Retrieval

CONFIG = Path(__file__).parents[2] / "conf" / "evaluation" / "retrieval.yaml"


def retrieval(**changes) -> Retrieval:
    settings = {"recall_at": [1, 3], "ndcg_at": 10, "mrr_at": 10, "map_at": 100, "bootstrap_samples": 100}
    return Retrieval(**settings | changes)


def judgments(queries, corpus, triples) -> Judgments:
    query, document, grade = zip(*triples, strict=True)
    return Judgments(
        "test", np.array(queries), np.array(corpus), np.array(query), np.array(document), np.array(grade, float)
    )


def on_a_line(positions: dict[int, float]):
    """Items as points whose dot product with item 0, at 1, is their position."""
    return lambda items: np.array([[positions[int(item)]] for item in items], np.float32)


def test_its_arguments_are_the_keys_of_its_config() -> None:
    node = yaml.safe_load(CONFIG.read_text())["retrieval"]
    assert node.pop("_target_") == f"{Retrieval.__module__}.{Retrieval.__name__}"
    assert list(node) == list(inspect.signature(Retrieval).parameters)
    assert Retrieval(**node).headline == "nDCG@10"


def test_worked_by_hand() -> None:
    # Ranking of query 0: documents 12, 11, 13, 10; right are 11 (grade 1) and 10 (grade 2).
    positions = {0: 1.0, 10: 0.1, 11: 0.8, 12: 0.9, 13: 0.5}
    task = judgments([0], [10, 11, 12, 13], [(0, 1, 1), (0, 0, 2), (0, 2, 0)])
    result = retrieval().evaluate(task, on_a_line(positions))
    dcg = 1 / np.log2(3) + 2 / np.log2(5)
    assert result.means == pytest.approx(
        {
            "nDCG@10": dcg / (2 + 1 / np.log2(3)),
            "recall@1": 0.0,
            "recall@3": 0.5,
            "MRR@10": 0.5,
            "MAP@100": (1 / 2 + 2 / 4) / 2,
        }
    )
    assert result.headline == next(iter(result.per_query)) == "nDCG@10"
    assert result.hits.tolist() == [[12, 11, 13, 10, -1, -1, -1, -1, -1, -1]]
    assert result.gains.tolist() == [[0, 1, 0, 2, 0, 0, 0, 0, 0, 0]]
    assert result.right.tolist() == [[10, 11, -1, -1, -1, -1, -1, -1, -1, -1]]
    assert result.counts == {"queries": 1, "queries without a right document": 0, "documents": 4, "judgments": 3}


def test_cut_offs_name_the_metrics() -> None:
    task = judgments([0], [10, 11], [(0, 0, 1)])
    result = retrieval(recall_at=[5, 2, 5], ndcg_at=3, mrr_at=4, map_at=7).evaluate(
        task, on_a_line({0: 1.0, 10: 0.2, 11: 0.1})
    )
    assert list(result.per_query) == ["nDCG@3", "recall@2", "recall@5", "MRR@4", "MAP@7"]
    assert result.headline == "nDCG@3"


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_trec_eval_on_random_embeddings(seed: int) -> None:
    random = np.random.default_rng(seed)
    Q, M = 60, 300
    embeddings = random.standard_normal((Q + M, 8)).astype(np.float32)
    pairs = random.permutation(Q * M)[:500]
    grades = random.integers(0, 4, 500)
    task = judgments(np.arange(Q), np.arange(Q, Q + M), list(zip(*np.divmod(pairs, M), grades, strict=True)))
    result = retrieval(recall_at=[10, 100]).evaluate(task, lambda items: embeddings[items])

    qrels: dict[str, dict[str, int]] = {}
    for pair, grade in zip(pairs, grades, strict=True):
        qrels.setdefault(f"{pair // M}", {})[f"{pair % M}"] = int(grade)
    scores = embeddings[:Q].astype(float) @ embeddings[Q:].T.astype(float)
    run = {f"{q}": {f"{d}": float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    wanted = {"nDCG@10": "ndcg_cut_10", "recall@10": "recall_10", "recall@100": "recall_100", "MAP@100": "map_cut_100"}
    names = {name.rpartition("_")[0] + "." + name.rpartition("_")[2] for name in wanted.values()}
    expected = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    kept = [q for q in range(Q) if any(grade > 0 for grade in qrels.get(f"{q}", {}).values())]
    assert result.queries.tolist() == kept
    assert result.counts["queries without a right document"] == Q - len(kept)
    for ours, theirs in wanted.items():
        np.testing.assert_allclose(result.per_query[ours], [expected[f"{q}"][theirs] for q in kept], rtol=0, atol=1e-9)


def test_every_item_is_encoded_once() -> None:
    asked = []

    def embed(items: np.ndarray) -> np.ndarray:
        asked.extend(items.tolist())
        return np.ones((len(items), 2), np.float32)

    # Item 5 is a query and a document, item 7 stands in the corpus twice, query 9 has nothing to find.
    retrieval().evaluate(judgments([5, 3, 9], [7, 5, 7, 8], [(0, 0, 1), (1, 1, 1), (2, 3, 0)]), embed)
    assert asked == [3, 5, 7, 8]


def test_a_query_never_finds_itself() -> None:
    # Item 0 is in the corpus twice and would come first; judged right it cannot be found, so it counts neither way.
    positions = {0: 1.0, 10: 0.9, 11: 0.5}
    task = judgments([0], [0, 10, 0, 11], [(0, 0, 1), (0, 3, 1)])
    result = retrieval(recall_at=[1, 2]).evaluate(task, on_a_line(positions))
    assert result.hits[0, :3].tolist() == [10, 11, -1]
    assert result.right[0, :2].tolist() == [11, -1]
    assert result.means["recall@2"] == 1.0
    assert result.means["MRR@10"] == 0.5


def test_leaving_a_query_out_of_its_ranking_costs_no_place() -> None:
    positions = {0: 1.0} | {item: 1.0 - item / 100 for item in range(10, 30)}
    task = judgments([0], [0, 0, *range(10, 30)], [(0, 11, 1)])
    result = retrieval(recall_at=[10], map_at=10).evaluate(task, on_a_line(positions))
    assert result.hits[0].tolist() == list(range(10, 20))
    assert result.means["recall@10"] == 1.0


def test_places_beyond_the_corpus_are_nobodys_right_documents() -> None:
    task = judgments([0, 1], [10, 11], [(0, 1, 1), (1, 0, 1)])
    result = retrieval().evaluate(task, on_a_line({0: 1.0, 1: 1.0, 10: 0.2, 11: 0.9}))
    assert result.gains.tolist() == [[1, 0] + [0] * 8, [0, 1] + [0] * 8]


def test_a_query_that_is_only_its_own_answer_is_left_out() -> None:
    task = judgments([0, 1], [0, 10], [(0, 0, 1), (1, 1, 1)])
    result = retrieval().evaluate(task, on_a_line({0: 1.0, 1: 1.0, 10: 0.9}))
    assert result.queries.tolist() == [1]
    assert result.counts["queries without a right document"] == 1


def test_a_judgment_given_twice_counts_once_with_its_highest_grade() -> None:
    task = judgments([0], [10, 11], [(0, 0, 2), (0, 0, 1), (0, 0, 0)])
    result = retrieval().evaluate(task, on_a_line({0: 1.0, 10: 0.9, 11: 0.1}))
    assert result.gains[0, 0] == 2
    assert result.counts["judgments"] == 1
    assert set(result.means.values()) == {1.0}


def test_negative_grades_are_wrong_documents() -> None:
    task = judgments([0], [10, 11], [(0, 0, -1), (0, 1, 1)])
    result = retrieval().evaluate(task, on_a_line({0: 1.0, 10: 0.9, 11: 0.1}))
    assert result.means["nDCG@10"] == pytest.approx(1 / np.log2(3))


def test_nothing_to_find_is_said() -> None:
    with pytest.raises(FinetuneError, match="no query has a right document") as caught:
        retrieval().evaluate(judgments([0], [10], [(0, 0, 0)]), on_a_line({}))
    assert "data.validation_path" in caught.value.advice


def test_embeddings_that_are_no_numbers() -> None:
    with pytest.raises(FinetuneError, match="not numbers"):
        retrieval().evaluate(judgments([0], [10], [(0, 0, 1)]), on_a_line({0: float("nan"), 10: 1.0}))


@pytest.mark.parametrize("value", ["[]", "[0]", "[-1,10]", "[1.5]"])
def test_cut_offs_that_are_none_are_refused_by_the_check(value):
    with pytest.raises(CheckFailed, match="recall_at"):
        check([f"evaluation.retrieval.recall_at={value}"])
