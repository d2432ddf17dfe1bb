"""Fast dropout: its rate, its scale, and its reproducibility."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finetune.models.dropout import Dropout, keep_, keep_mask, replace_dropout

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_are_kept_scaled_or_zero(dtype):
    torch.manual_seed(0)
    x = torch.randn(97, 31, dtype=dtype) + 5
    y = Dropout(0.3)(x)
    kept = y != 0
    assert 0.6 < kept.float().mean() < 0.8
    ratio = (y[kept] / x[kept]).double()
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / 0.7), rtol=0.02, atol=0)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.25, 0.5, 0.9, 0.99])
def test_the_rate_and_the_mean_are_exact_over_calls(p):
    torch.manual_seed(1)
    dropout, x = Dropout(p), torch.ones(250, 400)
    outputs = torch.stack([dropout(x) for _ in range(100)])
    n = outputs.numel()
    # Five standard deviations: of n draws, and of the choice between two levels that 100 calls share.
    spread = 5 * ((p * (1 - p) / n) ** 0.5 + 0.5 / 256 / 100**0.5)
    assert abs(float((outputs == 0).float().mean()) - p) < spread
    assert abs(float(outputs.mean()) - 1) < 6 * (p / (1 - p) / n) ** 0.5 + 1e-4


def test_adjacent_elements_are_dropped_independently():
    torch.manual_seed(2)
    kept = (Dropout(0.5)(torch.ones(1_000_000)) != 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8, 16, 64, 384):
        correlation = 4 * float((kept[distance:] * kept[:-distance]).mean())
        assert abs(correlation) < 0.005, distance


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(3)
    x = torch.randn(50, 40, requires_grad=True)
    y = Dropout(0.2)(x)
    y.backward(torch.ones_like(y))
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_a_saved_random_state_replays_it():
    x, dropout = torch.randn(100, 7), Dropout(0.1)
    state = torch.get_rng_state()
    first = dropout(x)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout(x))


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_evaluation_and_extreme_rates_equal_torch(p):
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(p).eval()(x), x)
    if p in (0.0, 1.0):
        assert torch.equal(Dropout(p)(x), nn.Dropout(p)(x))


def test_a_dropped_infinity_is_zero():
    torch.manual_seed(4)
    mask, _ = keep_mask((1000,), 0.5)
    dropped = keep_(torch.full((1000,), float("inf")), mask)
    assert set(dropped.tolist()) == {0.0, float("inf")}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=0, max_size=4), st.floats(0.001, 0.99))
def test_any_shape(size, p):
    mask, scale = keep_mask(tuple(size), p)
    assert mask.shape == tuple(size)
    assert set(mask.flatten().tolist()) <= {0, -1}
    assert scale >= 1


def test_noncontiguous_input_keeps_its_order():
    torch.manual_seed(5)
    x = torch.randn(6, 4, 3).transpose(0, 2)
    y = Dropout(0.5)(x)
    kept = y != 0
    torch.testing.assert_close(y[kept] / x[kept], torch.full_like(y[kept], 2.0))


def test_every_dropout_of_a_model_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.2)))
    names = set(model.state_dict())
    replace_dropout(model)
    assert type(model[1][0]) is Dropout and model[1][0].p == 0.3
    assert type(model[1][1]) is nn.Dropout2d
    assert set(model.state_dict()) == names
