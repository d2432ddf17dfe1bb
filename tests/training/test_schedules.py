"""Every schedule against transformers', torch's, or its formula."""

import math

import pytest
import torch
import transformers.optimization as theirs
from hypothesis import given
from hypothesis import strategies as st

from finetune.training.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    InverseSqrt,
    Linear,
    Plateau,
    Polynomial,
    WarmupStableDecay,
)

ANY = st.sampled_from(
    [
        Constant,
        Linear,
        Cosine,
        Polynomial,
        InverseSqrt,
        WarmupStableDecay,
        Plateau,
        lambda warmup: CosineRestarts(warmup, cycles=7, decay=0.9),
        lambda warmup: Polynomial(warmup, power=0.5, floor=0.1),
        lambda warmup: WarmupStableDecay(warmup, cooldown=0.0),
    ]
)


@given(ANY, st.floats(0, 1), st.integers(1, 500))
def test_the_factor_rises_to_one_and_stays_between_zero_and_one(kind, warmup, total):
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


def test_cosine_is_halfway_in_the_middle_and_ends_at_its_floor():
    assert Cosine(warmup=0, floor=0.2).after_warmup(0.5) == pytest.approx(0.6)
    assert Cosine(warmup=0, floor=0.2).after_warmup(1.0) == pytest.approx(0.2)


def test_constant_stays_at_the_peak():
    assert {Constant(warmup=0).factor(step, 10) for step in range(10)} == {1.0}


def optimizer(lr=1.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def their_factors(scheduler, steps):
    factors = []
    for _ in range(steps):
        factors.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return factors


def ours(schedule, total, warmup_steps=0):
    """Our factors at the steps of theirs, whose warm-up starts with a rate of 0, which ours skips."""
    return [
        schedule.after_warmup((step - warmup_steps) / (total - warmup_steps)) for step in range(warmup_steps, total)
    ]


@pytest.mark.parametrize("cycles", [1, 2, 5])
def test_restarts_equal_those_of_transformers_and_torch(cycles):
    scheduler = theirs.get_cosine_with_hard_restarts_schedule_with_warmup(optimizer(), 10, 110, cycles)
    expected = their_factors(scheduler, 110)[10:]
    assert ours(CosineRestarts(cycles=cycles), 110, 10) == pytest.approx(expected, abs=1e-9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer(), 100 // cycles, eta_min=0.1)
    assert ours(CosineRestarts(cycles=cycles, floor=0.1), 100) == pytest.approx(their_factors(scheduler, 100))


def test_restarts_decay():
    schedule = CosineRestarts(warmup=0, cycles=4, decay=0.5)
    assert [schedule.after_warmup(cycle / 4) for cycle in range(4)] == [1, 0.5, 0.25, 0.125]
    assert CosineRestarts(cycles=1, floor=0.1).after_warmup(0.3) == Cosine(floor=0.1).after_warmup(0.3)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_polynomial_equals_that_of_transformers(power):
    scheduler = theirs.get_polynomial_decay_schedule_with_warmup(optimizer(), 10, 110, lr_end=0.2, power=power)
    expected = their_factors(scheduler, 110)[10:]
    assert ours(Polynomial(power=power, floor=0.2), 110, 10) == pytest.approx(expected)


@pytest.mark.parametrize(("shape", "name"), [("sqrt", "1-sqrt"), ("linear", "linear"), ("cosine", "cosine")])
def test_warmup_stable_decay_equals_that_of_transformers(shape, name):
    scheduler = theirs.get_wsd_schedule(
        optimizer(), num_warmup_steps=20, num_stable_steps=150, num_decay_steps=30, decay_type=name, min_lr_ratio=0.1
    )
    expected = their_factors(scheduler, 200)[20:]
    schedule = WarmupStableDecay(warmup=0.1, cooldown=0.15, shape=shape, floor=0.1)
    assert ours(schedule, 200, 20) == pytest.approx(expected)


def test_inverse_square_root_equals_that_of_transformers():
    scheduler = theirs.get_inverse_sqrt_schedule(optimizer(), num_warmup_steps=20)
    expected = their_factors(scheduler, 200)[1:]  # their first step is lost to a rate of zero
    schedule = InverseSqrt(warmup=0.1)
    assert [schedule.factor(step, 200) for step in range(199)] == pytest.approx(expected)
    assert [InverseSqrt(warmup=0).factor(step, 9) for step in (0, 3, 8)] == pytest.approx([1, 1 / 2, 1 / 3])


LOSSES = st.lists(st.floats(0.125, 3, width=32), min_size=1, max_size=60)


@given(LOSSES, st.integers(1, 3), st.integers(0, 3), st.sampled_from([0.0, 0.01, 0.2]), st.sampled_from([0.0, 0.1]))
def test_plateau_equals_that_of_torch_over_window_means(losses, window, patience, threshold, floor):
    schedule = Plateau(0.0, window, patience, 0.5, threshold, floor)
    of_torch = optimizer()
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        of_torch, factor=0.5, patience=patience, threshold=threshold, min_lr=floor, eps=0
    )
    for step, loss in enumerate(losses):
        schedule.watch(lambda loss=loss: torch.tensor(loss, dtype=torch.float64), step, 1000)
        if step % window == window - 1:
            oracle.step(sum(losses[step - window + 1 : step + 1]) / window)
        assert schedule.factor(step, 1000) == of_torch.param_groups[0]["lr"]


def test_plateau_ignores_the_warmup_and_supports_negative_losses():
    schedule = Plateau(warmup=0.5, window=1, patience=0, threshold=0.1)
    for step, loss in enumerate([1.0, 2.0, -1.0, -1.2, -1.2]):
        schedule.watch(lambda loss=loss: torch.tensor(loss), step, 4)
    assert schedule.after_warmup(0.5) == 0.5  # of the last alone: -1.2 is better than -1.0 by more than a tenth


def test_other_schedules_never_read_the_loss():
    Cosine().watch(lambda: pytest.fail("asked"), 0, 10)
    assert Cosine().state_dict() == {}


@given(LOSSES, st.integers(0, 60))
def test_plateau_continues_from_its_state(losses, stop):
    whole, first, second = (Plateau(0.0, 4, 1, 0.5) for _ in range(3))
    for step, loss in enumerate(losses):
        if step == stop:
            second.load_state_dict(first.state_dict())
        for schedule in (whole, second if step >= stop else first):
            schedule.watch(lambda loss=loss: torch.tensor(loss), step, 1000)
    assert whole.state_dict() == (second if len(losses) > stop else first).state_dict()
    assert all(type(value) in (int, float) for value in whole.state_dict().values())
