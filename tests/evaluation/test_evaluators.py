"""Similarity, pair classification, classification, clustering and geometry, against scikit-learn and scipy."""

import numpy as np
import pytest
import scipy.stats
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, v_measure_score
from sklearn.neighbors import KNeighborsClassifier

from finetune.data.holdout.eval_data import LabelledItems, ScoredPairs
from finetune.errors import FinetuneError
from finetune.evaluation.classification import knn_predict, linear_probe_predict
from finetune.evaluation.clusters import k_means
from tests.evaluation.making import built, judgments


@pytest.fixture
def points():
    """150 embeddings of three classes, in order of the class."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((3, 6)) * 1.5
    return (np.repeat(centres, 50, axis=0) + random.standard_normal((150, 6))).astype(np.float32)


LABEL = np.repeat(np.arange(3), 50)


def labelled(known=None):
    return LabelledItems("test", np.arange(150), LABEL, np.arange(150) % 2 == 0 if known is None else known)


def scored(points, binary=False):
    left, right = np.arange(75), np.arange(75, 150)
    score = (points[left] * points[right]).sum(1) + np.random.default_rng(1).standard_normal(75) * 5
    return ScoredPairs("test", left, right, (score > 1).astype(float) if binary else score.astype(float))


def test_correlations_equal_scipy(points) -> None:
    held, kinds = scored(points), ["cosine", "dot", "euclidean"]
    found = built("similarity", similarities=kinds).evaluate(held, lambda rows: points[rows])
    left, right = points[held.left].astype(float), points[held.right].astype(float)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    dot = (left * right).sum(1)
    similar = {"cosine": dot / lengths, "dot": dot, "euclidean": -np.linalg.norm(left - right, axis=1)}
    assert found.headline == "Spearman cosine"
    assert found.queries.tolist() == np.column_stack([held.left, held.right]).tolist()
    for kind in kinds:
        assert found.means[f"Spearman {kind}"] == pytest.approx(scipy.stats.spearmanr(similar[kind], held.score)[0])
        assert found.means[f"Pearson {kind}"] == pytest.approx(scipy.stats.pearsonr(similar[kind], held.score)[0])


def test_pair_classification_equals_scikit_learn(points) -> None:
    held = scored(points, binary=True)
    found = built("pair_classification", similarities=["dot"]).evaluate(held, lambda rows: points[rows])
    dot = (points[held.left].astype(float) * points[held.right]).sum(1)
    assert found.means["AP dot"] == pytest.approx(average_precision_score(held.score, dot), abs=1e-9)
    assert "F1 dot: pairs of at least" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "settings", "score", "words"),
    [
        ("similarity", {}, [1.0, 1.0, 1.0], "all scores are the same"),
        ("pair_classification", {}, [0.0, 0.5, 1.0], "it is undefined which pairs are right"),
        ("pair_classification", {"right_from": 0.0}, [0.0, 0.5, 1.0], "all of the 3 pairs are right"),
    ],
)
def test_unusable_scores_are_an_error(points, name, settings, score, words) -> None:
    held = ScoredPairs("test", np.arange(3), np.arange(3, 6), np.array(score))
    with pytest.raises(FinetuneError, match=words):
        built(name, **settings).evaluate(held, lambda rows: points[rows])


def test_neighbors_vote_as_in_scikit_learn(points) -> None:
    known = np.arange(150) % 2 == 0
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    for k in (1, 5, 40):
        theirs = KNeighborsClassifier(k, algorithm="brute").fit(unit[known], LABEL[known])
        ours = knn_predict(points[known], LABEL[known], points[~known], k)
        # For tied votes scikit-learn takes the smaller class, ours the nearer one.
        votes = np.sort(theirs.predict_proba(unit[~known]), axis=1)
        clear = votes[:, -1] > votes[:, -2]
        assert clear.mean() > 0.7
        np.testing.assert_array_equal(ours[clear], theirs.predict(unit[~known])[clear])


def test_the_linear_probe_is_that_of_scikit_learn(points) -> None:
    known = np.arange(150) % 2 == 0
    theirs = LogisticRegression(C=0.3, tol=1e-10, max_iter=5000).fit(points[known], LABEL[known])
    random = np.random.default_rng(2).standard_normal((2000, 6)).astype(np.float32) * 2
    same = linear_probe_predict(points[known], LABEL[known], random, 0.3) == theirs.predict(random)
    assert same.mean() > 0.999


def test_classification_measures_only_unknown_items(points) -> None:
    found = built("classification", neighbours=1).evaluate(labelled(), lambda rows: points[rows])
    assert list(found.per_query) == ["accuracy 1 neighbours", "accuracy linear"]
    assert found.counts == {"items": 75, "items to learn from": 75, "classes": 3}
    assert found.queries.tolist() == list(range(1, 150, 2))
    assert found.means["accuracy linear"] > 0.8


def test_clusters_are_as_good_as_those_of_scikit_learn(points) -> None:
    ours = k_means(points, 3, 0, 5)
    theirs = KMeans(3, n_init=5, random_state=0).fit(points)

    def spread(cluster):
        return sum(((points[cluster == c] - points[cluster == c].mean(0)) ** 2).sum() for c in range(3))

    assert spread(ours) == pytest.approx(theirs.inertia_, rel=1e-3)
    found = built("clustering").evaluate(labelled(np.zeros(150, bool)), lambda rows: points[rows])
    assert found.means["V-measure"] == pytest.approx(v_measure_score(LABEL, ours), abs=1e-9)


def test_more_clusters_than_distinct_points() -> None:
    assert len(k_means(np.ones((4, 2), np.float32), 3, 0, 2)) == 4


def test_unusable_classes_are_an_error(points) -> None:
    alone = LabelledItems("test", np.arange(50), LABEL[:50], np.arange(50) % 2 == 0)
    for name in ("classification", "clustering"):
        with pytest.raises(FinetuneError, match="class"):
            built(name).evaluate(alone, lambda rows: points[rows])


def test_alignment_and_uniformity_by_hand() -> None:
    points = np.array([[1, 0], [0, 2], [-1, 0], [0, -1]], np.float32)
    held = judgments([0], [1, 2, 3], [(0, 0, 1), (0, 1, 1)])
    found = built("geometry").evaluate(held, lambda rows: points[rows])
    assert found.means["-alignment"] == pytest.approx(-(2 + 4) / 2)
    pairs = [2, 4, 2, 2, 4, 2]  # squared distances
    assert found.means["-uniformity"] == pytest.approx(-np.log(np.mean(np.exp(-2 * np.array(pairs)))))


@pytest.mark.parametrize("name", ["similarity", "pair_classification", "classification", "clustering", "geometry"])
def test_non_finite_embeddings_are_an_error(points, name) -> None:
    held = labelled() if name in ("classification", "clustering") else scored(points, binary=True)
    if name == "geometry":
        held = judgments([0], [1, 2], [(0, 0, 1)])
    with pytest.raises(FinetuneError, match="embeddings are not finite"):
        built(name).evaluate(held, lambda rows: np.full((len(rows), 4), np.nan, np.float32))
