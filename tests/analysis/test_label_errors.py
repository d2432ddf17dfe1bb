"""Detection of planted wrong labels and missing labels."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from finetune.analysis.label_errors import RankedHits, false_negatives, wrong_labels, wrong_pairs
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize

PAIRS, PLANTED, WIDTH = 1000, 50, 32


class Made(NamedTuple):
    """A search, the queries whose labelled document is another's, and the unlabelled twins by query and document."""

    ranked: RankedHits
    wrong: set[int]
    twins: set[tuple[int, int]]
    right: set[tuple[int, int]]  # the true pairs of queries whose label is wrong


def made(noise: float, seed: int = 0) -> Made:
    """Queries and documents about 200 topics, each pair near one point; more noise is a worse model."""
    random = np.random.default_rng(seed)
    topics = random.standard_normal((PAIRS // 5, WIDTH))
    truth = 0.8 * topics[random.integers(0, len(topics), PAIRS)] + random.standard_normal((PAIRS, WIDTH))
    queries, documents = (truth + noise * random.standard_normal(truth.shape) for _ in range(2))
    label = np.arange(PAIRS)
    wrong = random.permutation(PAIRS)[:PLANTED]
    label[wrong] = np.roll(wrong, 1)
    twin = random.choice(np.setdiff1d(label, wrong), PLANTED, replace=False)
    twins = truth[twin] + 0.5 * noise * random.standard_normal((PLANTED, WIDTH))
    queries, documents = (
        normalize(queries.astype(np.float32)),
        normalize(np.concatenate([documents, twins]).astype(np.float32)),
    )
    scores, hits = top_k(queries, documents, 10)
    drawn = random.integers(0, PAIRS, PAIRS)
    ranked = RankedHits(
        np.arange(PAIRS),
        hits,
        scores.astype(np.float64),
        hits == label[:, None],
        label[:, None],
        (queries * documents[label]).sum(1)[:, None].astype(np.float64),
        (queries * documents[drawn]).sum(1)[drawn != label].astype(np.float64),
    )
    both = {(int(query), PAIRS + n) for n, query in enumerate(twin)}
    return Made(ranked, set(wrong.tolist()), both, {(query, query) for query in wrong.tolist()})


@pytest.mark.parametrize(("noise", "precision", "recall"), [(0.3, 0.98, 0.9), (0.7, 0.98, 0.9), (1.0, 0.8, 0.85)])
def test_planted_wrong_pairs_are_found(noise: float, precision: float, recall: float) -> None:
    data = made(noise)
    found = [doubt.query for doubt in wrong_pairs(data.ranked)]
    assert np.mean([query in data.wrong for query in found]) >= precision
    assert len(data.wrong & set(found)) >= recall * PLANTED
    doubt = wrong_pairs(data.ranked)[0]
    assert (doubt.positive, doubt.document) == (data.ranked.right[doubt.query, 0], data.ranked.hits[doubt.query, 0])


def test_a_query_that_finds_itself_gets_the_next_hit() -> None:
    ranked = made(0.3).ranked
    (query, *_) = (doubt.query for doubt in wrong_pairs(ranked))
    hits, scores = ranked.hits.copy(), ranked.scores.copy()
    hits[query, 0], scores[query, 0] = -1, np.nan
    doubt = next(doubt for doubt in wrong_pairs(replace(ranked, hits=hits, scores=scores)) if doubt.query == query)
    assert (doubt.document, doubt.score) == (hits[query, 1], scores[query, 1])
    hits[query] = -1
    assert query not in {doubt.query for doubt in wrong_pairs(replace(ranked, hits=hits, scores=scores))}


@pytest.mark.parametrize(("noise", "precision", "recall"), [(0.3, 0.98, 0.8), (0.7, 0.98, 0.75), (1.0, 0.75, 0.6)])
def test_planted_unlabeled_twins_are_found(noise: float, precision: float, recall: float) -> None:
    data = made(noise)
    found = {(doubt.query, doubt.document) for doubt in false_negatives(data.ranked)}
    # A query with a wrong label that finds its true document counts as correct too.
    assert len(found & (data.twins | data.right)) >= precision * len(found)
    assert len(found & data.twins) >= recall * PLANTED


def test_correct_data_has_no_suspects() -> None:
    points = np.eye(64)
    ranked = RankedHits(
        np.arange(64), np.arange(64)[:, None], np.ones((64, 1)), np.ones((64, 1), bool),
        np.arange(64)[:, None], np.ones((64, 1)), (points @ np.roll(points, 1, 0)).diagonal(),
    )  # fmt: skip
    assert false_negatives(ranked) == wrong_pairs(ranked) == []


def test_too_few_pairs_have_no_suspects() -> None:
    ranked = made(0.3).ranked
    few = RankedHits(*(part[:5] for part in (ranked.queries, ranked.hits, ranked.scores, ranked.is_right)),
                 ranked.right[:5], ranked.right_scores[:5], ranked.noise[:5])  # fmt: skip
    assert false_negatives(few) == wrong_pairs(few) == []


@pytest.mark.parametrize(("spread", "precision", "recall"), [(0.5, 0.98, 0.9), (1.0, 0.75, 0.85)])
def test_planted_wrong_labels_are_found(spread: float, precision: float, recall: float) -> None:
    random = np.random.default_rng(1)
    label = random.integers(0, 5, PAIRS) * 10  # class numbers need not be dense
    items = random.standard_normal((50, 16))[label] + spread * random.standard_normal((PAIRS, 16))
    planted = random.permutation(PAIRS)[:PLANTED]
    given = label.copy()
    given[planted] = (label[planted] + 10 * random.integers(1, 5, PLANTED)) % 50
    found = wrong_labels(items.astype(np.float32), given)
    places = {one.place for one in found}
    assert len(places & set(planted.tolist())) >= max(precision * len(places), recall * PLANTED)
    assert np.mean([one.suggested == label[one.place] for one in found if one.place in planted]) >= 0.95
    assert all(given[one.place] == one.label and one.suggested_share > one.share for one in found)


def test_equal_items_are_neighbors_of_each_other() -> None:
    items = np.repeat(np.eye(2, dtype=np.float32), 30, axis=0)
    label = np.repeat([0, 1], 30)
    assert wrong_labels(items, label) == []
    label[3] = 1
    assert [(one.place, one.label, one.suggested) for one in wrong_labels(items, label)] == [(3, 1, 0)]
