import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.training.schedules import Constant, Cosine, Linear

ANY = st.sampled_from([Constant, Linear, Cosine])


@given(ANY, st.floats(0, 1), st.integers(1, 500))
def test_the_rate_rises_to_the_peak_and_never_leaves_zero_to_one(kind, warmup, total):
    factors = [kind(warmup=warmup).factor(step, total) for step in range(total)]
    warmup_steps = math.ceil(warmup * total)
    assert all(0 < factor <= 1 for factor in factors)  # no step is wasted at a rate of zero
    assert factors[:warmup_steps] == sorted(factors[:warmup_steps])
    if warmup_steps:
        assert factors[warmup_steps - 1] == 1.0


def test_linear_by_hand():
    assert [Linear(warmup=0.5).factor(step, 4) for step in range(4)] == pytest.approx([0.5, 1.0, 2 / 3, 1 / 3])


def test_linear_without_warmup_by_hand():
    assert [Linear(warmup=0).factor(step, 3) for step in range(3)] == pytest.approx([0.75, 0.5, 0.25])


def test_cosine_is_halfway_in_the_middle_and_keeps_its_floor():
    assert Cosine(warmup=0, floor=0.2).after_warmup(0.5) == pytest.approx(0.6)
    assert Cosine(warmup=0, floor=0.2).after_warmup(1.0) == pytest.approx(0.2)


def test_constant_stays():
    assert {Constant(warmup=0).factor(step, 10) for step in range(10)} == {1.0}
