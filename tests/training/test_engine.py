"""The engine gives the embeddings, the loss and the gradients of the plain padded computation."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.models.text import TextEncoder
from finetune.training.engine import Engine

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return TextEncoder(str(tiny_model), dropout=0.0)


def padded(encoder, ids, lengths):
    longest = int(lengths.max())
    rows = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for i, part in enumerate(torch.split(ids, lengths.tolist())):
        rows[i, : len(part)] = part
        mask[i, : len(part)] = 1
    return encoder(rows, mask)


def gradients(encoder, emb, direction):
    encoder.zero_grad()
    (emb * direction).sum().backward()
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 20), min_size=1, max_size=17), st.integers(1, 200), st.integers(0, 2**16))
def test_equals_the_padded_computation(encoder, lengths, budget, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = np.array(lengths, dtype=np.int64)
    ids = torch.randint(4, 60, (int(lengths.sum()),), generator=generator)
    direction = torch.randn(len(lengths), encoder.width, generator=generator)

    plain = padded(encoder, ids, lengths)
    plain_gradients = gradients(encoder, plain, direction)
    ours = Engine(budget, call_cost=seed % 50).encode(encoder, ids, lengths, encoder.pad_id)
    our_gradients = gradients(encoder, ours, direction)

    torch.testing.assert_close(ours, plain, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        our_gradients, plain_gradients, rtol=TOLERANCE, atol=TOLERANCE * plain_gradients.abs().max()
    )


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 300), st.integers(0, 100))
def test_cuts_hold_the_budget_and_every_item_once(lengths, budget, call_cost):
    lengths = np.array(lengths)
    cuts = list(Engine(budget, call_cost).cut(lengths))
    assert sorted(np.concatenate(cuts)) == list(range(len(lengths)))
    for rows in cuts:
        # An item that alone is over the budget still has to be encoded, alone.
        assert len(rows) * lengths[rows].max() <= budget or len(rows) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 20))
def test_the_cut_is_the_cheapest_of_all(lengths, call_cost):
    lengths = np.array(sorted(lengths))

    def cost(cuts):
        return sum(len(part) * max(part) + call_cost for part in cuts)

    n = len(lengths)
    every = [np.split(lengths, [i for i in range(1, n) if pattern >> (i - 1) & 1]) for pattern in range(2 ** (n - 1))]
    ours = [lengths[rows] for rows in Engine(10_000, call_cost).cut(lengths)]
    assert cost(ours) == min(map(cost, every))


def test_items_of_one_length_are_not_padded():
    assert Engine(call_cost=0).padding_share(np.array([3, 7, 3, 7, 5])) == 0


def test_padding_share_by_hand():
    # At this price of a call, 2 and 4 share a micro-batch of 2 x 4 positions, 6 of them real; 8 stands alone.
    assert Engine(call_cost=3).padding_share(np.array([8, 2, 4])) == pytest.approx(1 - 14 / 16)
