"""Metrics of a list as one share per case: the mean is the metric, the spread is that of a resample."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, v_measure_score

from finetune.evaluation.geometry import uniformity
from finetune.metrics import AveragePrecision, BestAccuracy, BestF1, Pearson, Spearman, VMeasure
from finetune.metrics.pairs import ranks
from tests.metrics.measured import measured


def two_lists(seed: int, count: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    left = random.standard_normal(count)
    right = left + random.standard_normal(count)
    return (np.round(left), np.round(right)) if tied else (left, right)


def right_ones(seed: int, count: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    score, other = two_lists(seed, count, tied)
    right = other > 0
    right[:2] = True, False
    return score, right


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(3, 60), st.booleans())
def test_coefficients_equal_scipy_with_ties(seed, count, tied) -> None:
    left, right = two_lists(seed, count, tied)
    np.testing.assert_array_equal(ranks(left), scipy.stats.rankdata(left))
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        assert measured(Pearson(), left, right).mean() == measured(Spearman(), left, right).mean() == 0
        return
    assert measured(Pearson(), left, right).mean() == pytest.approx(scipy.stats.pearsonr(left, right)[0], abs=1e-9)
    assert measured(Spearman(), left, right).mean() == pytest.approx(scipy.stats.spearmanr(left, right)[0], abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(3, 60), st.booleans())
def test_pair_metrics_equal_scikit_learn_with_ties(seed, count, tied) -> None:
    score, right = right_ones(seed, count, tied)
    found = measured(AveragePrecision(), score, right)
    assert found.mean() == pytest.approx(average_precision_score(right, score), abs=1e-9)
    for metric, theirs in ((BestF1(), f1_score), (BestAccuracy(), accuracy_score)):
        shares, threshold = measured(metric, score, right), metric.threshold()
        best = max(theirs(right, score >= value) for value in np.unique(score))
        assert shares.mean() == pytest.approx(best, abs=1e-9)
        assert theirs(right, score >= threshold) == pytest.approx(best, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_the_v_measure_equals_scikit_learn(pairs) -> None:
    label, cluster = np.array(pairs).T
    assert measured(VMeasure(), cluster, label).mean() == pytest.approx(v_measure_score(label, cluster), abs=1e-9)


def metric_of(name: str, seed: int, count: int):
    """A metric by an independent library, on a subset of the cases, and ours as shares of all cases."""
    if name in ("pearson", "spearman"):
        left, right = two_lists(seed, count, tied=name == "spearman")
        theirs = scipy.stats.pearsonr if name == "pearson" else scipy.stats.spearmanr
        ours = Pearson() if name == "pearson" else Spearman()
        return (lambda rows: theirs(left[rows], right[rows])[0]), measured(ours, left, right)
    if name == "f1":
        score, right = right_ones(seed, count, tied=False)
        metric = BestF1()
        shares, threshold = measured(metric, score, right), metric.threshold()
        return (lambda rows: f1_score(right[rows], score[rows] >= threshold)), shares
    if name == "v":
        random = np.random.default_rng(seed)
        label = random.integers(0, 3, count)
        cluster = np.where(random.random(count) < 0.7, label, random.integers(0, 3, count))
        return (lambda rows: v_measure_score(label[rows], cluster[rows])), measured(VMeasure(), cluster, label)
    points = np.random.default_rng(seed).standard_normal((count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)

    def brute(rows):
        squares = ((points[rows][:, None] - points[rows][None]) ** 2).sum(2)
        return np.log(np.exp(-2 * squares)[~np.eye(len(rows), dtype=bool)].mean())

    return brute, uniformity(points)


@pytest.mark.parametrize("name", ["pearson", "spearman", "f1", "v", "uniformity"])
def test_shares_equal_the_jackknife(name) -> None:
    # The jackknife of an independent implementation: n * whole - (n - 1) * without one.
    count = 400
    metric, shares = metric_of(name, 0, count)
    everything = np.arange(count)
    whole = metric(everything)
    assert shares.mean() == pytest.approx(whole, abs=1e-9)
    without = np.array([metric(np.delete(everything, i)) for i in everything])
    jackknife = whole + (count - 1) * (whole - without)
    assert np.corrcoef(jackknife, shares)[0, 1] > 0.99
    assert shares.std() == pytest.approx(jackknife.std(), rel=0.05)
