import importlib
import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import pytrec_eval
import yaml

from finetune.config.check import check
from finetune.errors import CheckFailed, FinetuneError
from tests.evaluation.making import FOLDER, built, judgments


def retrieval(**changes):
    return built("retrieval", **{"metrics": ["nDCG@10", "recall@1", "recall@3", "MRR@10", "MAP@100"], **changes})


def on_a_line(positions: dict[int, float]):
    """Embed items so that their dot product with item 0, at 1, is their position."""
    return lambda items: np.array([[positions[int(item)]] for item in items], np.float32)


@pytest.mark.parametrize(
    "file", [file.stem for file in FOLDER.glob("*.yaml") if file.stem not in ("none", "default", "fitting")]
)
def test_its_arguments_are_the_keys_of_its_config(file) -> None:
    node = yaml.safe_load((FOLDER / f"{file}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    assert list(node) == list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


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
    result = retrieval(metrics=["nDCG@3", "recall@2", "recall@5", "recall@2", "MRR@4", "MAP@7"]).evaluate(
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
    result = retrieval(metrics=["nDCG@10", "recall@10", "recall@100", "MAP@100"]).evaluate(
        task, lambda items: embeddings[items]
    )

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

    # Item 5 is a query and a document, item 7 is in the corpus twice, query 9 has no right document.
    retrieval().evaluate(judgments([5, 3, 9], [7, 5, 7, 8], [(0, 0, 1), (1, 1, 1), (2, 3, 0)]), embed)
    assert asked == [3, 5, 7, 8]


def test_a_query_is_no_hit_of_itself() -> None:
    # Item 0 is in the corpus twice and would be first; judged right it cannot be a hit, so it does not count.
    positions = {0: 1.0, 10: 0.9, 11: 0.5}
    task = judgments([0], [0, 10, 0, 11], [(0, 0, 1), (0, 3, 1)])
    result = retrieval(metrics=["recall@2", "MRR@10"]).evaluate(task, on_a_line(positions))
    assert result.hits[0, :3].tolist() == [10, 11, -1]
    assert result.right[0, :2].tolist() == [11, -1]
    assert result.means["recall@2"] == 1.0
    assert result.means["MRR@10"] == 0.5


def test_excluding_the_query_does_not_shorten_the_hits() -> None:
    positions = {0: 1.0} | {item: 1.0 - item / 100 for item in range(10, 30)}
    task = judgments([0], [0, 0, *range(10, 30)], [(0, 11, 1)])
    result = retrieval(metrics=["recall@10", "MAP@10"]).evaluate(task, on_a_line(positions))
    assert result.hits[0].tolist() == list(range(10, 20))
    assert result.means["recall@10"] == 1.0


def test_missing_hits_are_not_relevant() -> None:
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


def test_no_right_document_is_an_error() -> None:
    with pytest.raises(FinetuneError, match="no query has a right document") as caught:
        retrieval().evaluate(judgments([0], [10], [(0, 0, 0)]), on_a_line({}))
    assert "data.validation_path" in caught.value.advice


def test_non_finite_embeddings_are_an_error() -> None:
    with pytest.raises(FinetuneError, match="embeddings are not finite"):
        retrieval().evaluate(judgments([0], [10], [(0, 0, 1)]), on_a_line({0: float("nan"), 10: 1.0}))


@pytest.mark.parametrize("value", ["[]", "[0]", "nDCG@10"])
def test_the_check_rejects_metrics_that_are_not_a_list(value):
    with pytest.raises(CheckFailed, match="metrics"):
        check([f"evaluation.retrieval.metrics={value}"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ndgc@10", "no metric 'ndgc@10'. Did you mean nDCG@10"),
        ("recall", "needs a cut-off"),
        ("recall@0", "needs a cut-off"),
        ("R-precision@5", "Write R-precision."),
        ("beauty", "There are: nDCG@k"),
    ],
)
def test_an_unknown_metric(name, words):
    with pytest.raises(CheckFailed, match=re.escape(words)):
        retrieval(metrics=[name])


def test_a_query_may_find_itself_without_exclude_self() -> None:
    task = judgments([0], [0, 10], [(0, 0, 1)])
    result = retrieval(exclude_self=False).evaluate(task, on_a_line({0: 1.0, 10: 0.5}))
    assert result.hits[0, :2].tolist() == [0, 10]
    assert result.means["recall@1"] == 1


def test_a_cut_off_beyond_the_corpus_is_noted() -> None:
    result = retrieval().evaluate(judgments([0], [10, 11], [(0, 0, 1)]), on_a_line({0: 1.0, 10: 0.9, 11: 0.1}))
    assert result.notes == [
        "nDCG@10, recall@3, MRR@10, MAP@100: the corpus has only 2 documents, fewer than the cut-off 100."
    ]


def test_a_sample_of_the_queries_is_always_the_same() -> None:
    task = judgments(range(50), range(50, 100), [(q, q, 1) for q in range(50)])
    embeddings = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    once, twice = (retrieval(queries=7).evaluate(task, lambda items: embeddings[items]) for _ in range(2))
    assert len(once.queries) == 7
    assert once.queries.tolist() == twice.queries.tolist()


def test_truncated_and_quantized_embeddings_are_not_encoded_again() -> None:
    random = np.random.default_rng(0)
    Q, M, D = 40, 300, 32
    embeddings = random.standard_normal((Q + M, D)).astype(np.float32)
    embeddings[:Q] += embeddings[Q : 2 * Q]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    task = judgments(np.arange(Q), np.arange(Q, Q + M), [(q, q, 1) for q in range(Q)])
    asked = []

    def embed(items):
        asked.extend(items)
        return embeddings[items]

    found = retrieval(dimensions=[32, 8], precisions=["int8", "binary"]).evaluate(task, embed).per_query
    assert len(asked) == Q + M
    alone = retrieval()

    def of(emb):
        return alone.evaluate(task, lambda items: emb[items]).per_query["nDCG@10"]

    signs = np.unpackbits(np.packbits(embeddings > 0, axis=1), axis=1)
    hamming = (signs[:Q, None] != signs[None, Q:]).sum(2)
    right_rank = (hamming < hamming[np.arange(Q), np.arange(Q)][:, None]).sum(1)
    before = np.arange(M) < np.arange(Q)[:, None]
    right_rank += ((hamming == hamming[np.arange(Q), np.arange(Q)][:, None]) & before).sum(1)
    expected = np.where(right_rank < 10, 1 / np.log2(right_rank + 2), 0)
    np.testing.assert_array_equal(found["nDCG@10 (32)"], found["nDCG@10"])
    np.testing.assert_allclose(found["nDCG@10 (8)"], of(normalised(embeddings[:, :8])), atol=1e-12)
    np.testing.assert_allclose(found["nDCG@10 (binary)"], expected, atol=1e-12)
    assert abs(found["nDCG@10 (int8)"].mean() - found["nDCG@10"].mean()) < 0.02
    assert "nDCG@10 (8, binary)" in found


def normalised(emb):
    return emb / np.linalg.norm(emb, axis=1, keepdims=True)


def test_more_dimensions_than_the_model_has() -> None:
    with pytest.raises(FinetuneError, match="have 1 dimensions, and 8 are to be measured"):
        retrieval(dimensions=[8]).evaluate(judgments([0], [10], [(0, 0, 1)]), on_a_line({0: 1.0, 10: 0.5}))


def test_an_approximate_index_finds_nearly_the_same() -> None:
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((600, 16)).astype(np.float32)
    task = judgments(np.arange(50), np.arange(600), [(q, 50 + q, 1) for q in range(50)])
    exact, near = (
        retrieval(index=index).evaluate(task, lambda items: embeddings[items]) for index in ("exact", "approximate")
    )
    # Which ones it misses is not deterministic (its threads race), and a missed one shifts all below it.
    found = [len(set(a) & set(b)) for a, b in zip(exact.hits.tolist(), near.hits.tolist(), strict=True)]
    assert np.mean(found) / exact.hits.shape[1] > 0.9
    assert not (near.hits == near.queries[:, None]).any()


def test_bm25_is_computed_once() -> None:
    words = {0: "red cat", 10: "a red cat sat", 11: "a green dog", 12: "the red sea"}
    task = judgments([0], [12, 11, 10], [(0, 2, 1)])
    evaluator, asked = retrieval(bm25=True), []

    def texts(rows):
        asked.append(rows)
        return [words[int(row)] for row in rows]

    for _ in range(2):
        result = evaluator.evaluate(task, on_a_line({0: 1.0, 10: 0.1, 11: 0.2, 12: 0.3}), texts)
        assert result.baselines["BM25"]["MRR@10"] == 1
        assert result.means["MRR@10"] == pytest.approx(1 / 3)
    assert len(asked) == 2
    assert retrieval(bm25=False).evaluate(task, on_a_line({0: 1.0, 10: 0.1, 11: 0.2, 12: 0.3}), texts).baselines == {}


@pytest.mark.parametrize("seed", range(3))
def test_right_documents_missing_from_the_corpus_count_as_in_trec_eval(seed: int) -> None:
    random = np.random.default_rng(seed)
    Q, M, L = 20, 60, 15
    embeddings = random.standard_normal((Q + M, 4)).astype(np.float32)
    # The last queries have no right document in the corpus.
    pairs = np.unique(random.integers(0, (Q - 2) * M, 60))
    grades = random.integers(0, 4, len(pairs))
    grades[0] = 1
    lost_query, lost_grade = np.append(random.integers(0, Q, L - 2), [Q - 2, Q - 1]), random.integers(1, 4, L)
    task = judgments(np.arange(Q), np.arange(Q, Q + M), list(zip(*np.divmod(pairs, M), grades, strict=True)))
    task = replace(task, lost_query=lost_query, lost_grade=lost_grade.astype(float))
    wanted = {"nDCG@5": "ndcg_cut_5", "recall@10": "recall_10", "MAP@100": "map_cut_100", "R-precision": "Rprec"}
    result = retrieval(metrics=list(wanted)).evaluate(task, lambda items: embeddings[items])

    qrels: dict[str, dict[str, int]] = {}
    for pair, grade in zip(pairs, grades, strict=True):
        qrels.setdefault(f"{pair // M}", {})[f"{pair % M}"] = int(grade)
    for place, (query, grade) in enumerate(zip(lost_query, lost_grade, strict=True)):
        qrels.setdefault(f"{query}", {})[f"gone {place}"] = int(grade)
    scores = embeddings[:Q].astype(float) @ embeddings[Q:].T.astype(float)
    run = {f"{q}": {f"{d}": float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    names = {name.replace("cut_", "cut.").replace("recall_", "recall.") for name in wanted.values()}
    expected = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    kept = [q for q in range(Q) if any(grade > 0 for grade in qrels.get(f"{q}", {}).values())]
    assert result.queries.tolist() == kept
    assert {Q - 2, Q - 1} <= set(kept)
    assert result.counts["right documents that are not in the corpus"] == L
    for ours, theirs in wanted.items():
        np.testing.assert_allclose(result.per_query[ours], [expected[f"{q}"][theirs] for q in kept], rtol=0, atol=1e-9)
    fewer = retrieval(metrics=["nDCG@5"], queries=10).evaluate(task, lambda items: embeddings[items])
    assert len(fewer.queries) <= 10
