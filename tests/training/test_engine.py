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
    ours = Engine(token_budget=budget).encode(encoder, ids, lengths, encoder.pad_id)
    our_gradients = gradients(encoder, ours, direction)

    torch.testing.assert_close(ours, plain, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(our_gradients, plain_gradients, rtol=TOLERANCE, atol=TOLERANCE * plain_gradients.abs().max())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 300))
def test_cuts_hold_the_budget_and_every_item_once(lengths, budget):
    lengths = np.array(lengths)
    cuts = list(Engine(token_budget=budget).cut(np.argsort(lengths, kind="stable"), lengths))
    assert sorted(np.concatenate(cuts)) == list(range(len(lengths)))
    for rows in cuts:
        # An item that alone is over the budget still has to be encoded, alone.
        assert len(rows) * lengths[rows].max() <= budget or len(rows) == 1


def test_padding_share_by_hand():
    # Budget 8: the items of 2 and 4 share a micro-batch of 2 x 4 positions, 6 of them real; 8 stands alone.
    assert Engine(token_budget=8).padding_share(np.array([8, 2, 4])) == pytest.approx(1 - 14 / 16)
