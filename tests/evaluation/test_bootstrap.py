import tracemalloc

import numpy as np
import pytest
from scipy import stats

from finetune.evaluation.bootstrap import paired_change


def test_contents() -> None:
    before = np.array([0.1, 0.5, 0.5, 0.9])
    after = np.array([0.3, 0.5, 0.4, 1.0])
    change = paired_change(before, after, 1000, seed=0)
    assert (change.won, change.lost, change.tied, change.queries) == (2, 1, 1, 4)
    assert change.mean_before == pytest.approx(0.5)
    assert change.mean_after == pytest.approx(0.55)
    assert change.change == pytest.approx(0.05)
    assert change.low < 0.05 < change.high
    assert change.standard_error == pytest.approx(np.std([0.2, 0, -0.1, 0.1], ddof=1) / 2)


def test_the_interval_equals_that_of_scipy() -> None:
    random = np.random.default_rng(1)
    before = random.random(300)
    after = before + random.normal(0.02, 0.2, 300)
    change = paired_change(before, after, 20_000, seed=0)
    reference = stats.bootstrap((after - before,), np.mean, n_resamples=20_000, method="percentile", batch=500, rng=1)
    # Two runs of 20,000 resamples differ by chance in the third digit of the interval's width.
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert change.low == pytest.approx(reference.confidence_interval.low, abs=0.03 * width)
    assert change.high == pytest.approx(reference.confidence_interval.high, abs=0.03 * width)


def test_the_interval_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(2)
    differences = random.choice([-1.0, 0.0, 0.0, 1.0], p=[0.1, 0.3, 0.4, 0.2], size=(400, 100))
    intervals = [paired_change(np.zeros(100), row, 500, seed=n) for n, row in enumerate(differences)]
    share = np.mean([change.low <= 0.1 <= change.high for change in intervals])
    assert 0.91 < share < 0.98


@pytest.mark.parametrize(("queries", "changed"), [(6, 6), (8, 8), (12, 12), (30, 30), (300, 8), (300, 15)])
def test_false_positive_rate_is_at_most_nominal(queries: int, changed: int) -> None:
    random = np.random.default_rng(queries + changed)
    told = 0
    for seed in range(600):
        difference = np.zeros(queries)
        difference[:changed] = random.normal(0, 0.2, changed)
        told += paired_change(np.zeros(queries), difference, 300, seed).certain
    # 5 % of 600 tries are 30; more than 43 have a probability of about 1 %.
    assert told <= 43


def test_few_changes_in_nearly_the_same_direction_are_not_certain() -> None:
    difference = np.zeros(300)
    difference[:8] = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -0.5]
    change = _change(difference)
    assert change.low > 0
    assert change.p_value == pytest.approx(stats.binomtest(7, 8).pvalue, abs=0.02)
    assert not change.certain
    verdict = change.verdict("nDCG@10")
    assert "no visible change" in verdict and "random signs of the 8 changes reach in" in verdict


def test_the_same_seed_gives_the_same_interval() -> None:
    before, after = np.random.default_rng(0).random((2, 50))
    assert paired_change(before, after, 500, seed=3) == paired_change(before, after, 500, seed=3)
    assert paired_change(before, after, 500, seed=3) != paired_change(before, after, 500, seed=4)


def test_memory_is_bounded() -> None:
    before, after = np.random.default_rng(0).random((2, 200_000))
    tracemalloc.start()
    paired_change(before, after, 100, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All draws at once would take 240 MB.
    assert peak < 80e6


def _change(difference: np.ndarray):
    return paired_change(np.full(len(difference), 0.5), 0.5 + difference, 2000, seed=0)


def test_verdicts() -> None:
    up = np.tile([0.1, 0.05, 0.0, 0.174], 50)
    assert _change(up).verdict("nDCG@10") == "better: +0.081 nDCG@10, certain"
    assert _change(-up).verdict("nDCG@10") == "worse: -0.081 nDCG@10, certain"
    assert _change(np.zeros(50)).verdict("nDCG@10") == "no visible change: +0.000 nDCG@10"


def test_one_number_has_no_interval() -> None:
    change = _change(np.array([0.3]))
    assert np.isnan([change.low, change.high]).all()
    assert not change.certain
    assert change.verdict("STS12") == "+0.300 STS12, a single number: its significance cannot be tested"


def test_an_uncertain_change_names_the_queries_needed() -> None:
    difference = np.tile([0.5, -0.4], 50)  # mean 0.05, deviation 0.4523: needs (2.8 * 0.4523 / 0.05)^2 = 641.5
    change = _change(difference)
    assert change.low < 0 < change.high
    assert change.more_queries() == 542
    assert change.verdict("MRR@10") == "no visible change: +0.050 MRR@10, needs about 540 more queries to be certain"
    assert _change(np.tile([0.5, -0.4], 318)).certain


@pytest.mark.parametrize(("effect", "spread"), [(0.02, 0.3), (0.05, 0.2)])
def test_the_queries_needed_give_a_power_of_80_percent(effect: float, spread: float) -> None:
    """Simulated: queries of which 60 % do not change, as in a real ranking."""
    random = np.random.default_rng(4)

    def tried(queries: int) -> np.ndarray:
        moved = random.random(queries) < 0.4
        return np.where(moved, random.normal(effect / 0.4, spread, queries), 0.0)

    # The advice of a first, uncertain evaluation that happens to show the true change.
    sample = tried(200)
    change = _change(sample - sample.mean() + effect)
    needed = round((change.visible / effect) ** 2 * change.queries)
    found = [paired_change(np.zeros(needed), tried(needed), 300, seed=n).certain for n in range(300)]
    assert 0.72 < np.mean(found) < 0.88
    assert change.certain or change.more_queries() == pytest.approx(needed - 200, abs=1)


def test_the_visible_change_is_detected_with_a_power_of_80_percent() -> None:
    random = np.random.default_rng(5)
    flat = random.normal(0, 0.3, 400)
    visible = _change(flat - flat.mean()).visible
    shown = [paired_change(np.zeros(400), random.normal(visible, 0.3, 400), 300, seed=n).certain for n in range(300)]
    assert 0.72 < np.mean(shown) < 0.88


@pytest.mark.parametrize("queries", [5, 1000])
def test_a_handful_of_changed_queries_is_never_certain(queries: int) -> None:
    difference = np.zeros(queries)
    difference[:5] = 0.3
    change = _change(difference)
    assert not change.certain
    assert f"only 5 of {queries} queries changed, too few to be certain" in change.verdict("nDCG@10")


def test_too_many_queries_are_not_suggested() -> None:
    difference = np.tile([1.0, -0.9999], 20)
    assert (
        _change(difference).verdict("nDCG@10")
        == "no visible change: +0.000 nDCG@10; a change of 0.448 would be visible"
    )
