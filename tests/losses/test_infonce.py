"""InfoNCE against a direct implementation of its formula and against sentence-transformers, values and gradients."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.tokens.token_store import Tokens
from finetune.losses.infonce import InfoNCE


def batch_of(rows):
    """The batch of (anchor, positive, negatives…) rows, all of them at once."""
    table = np.array(rows, dtype=np.int64)
    relations = Relations(table[:, 0], table[:, 1], table[:, 2:])
    n_items = int(table.max()) + 1
    tokens = Tokens(np.zeros(n_items, np.int32), np.arange(n_items + 1))
    known = KnownPositives.of_relations(relations, n_items)
    return Batches(relations, tokens, known, BatchSettings(len(rows)), seed=0).batch(np.arange(len(rows)))


def embeddings(batch, seed=0, width=6):
    generator = torch.Generator().manual_seed(seed)
    emb_ND = torch.randn(len(batch.items_N), width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(emb_ND, dim=1).requires_grad_()


def by_hand(emb, batch, rows, temperature, symmetric):
    """One anchor, one candidate, one exponential at a time, in the items' own numbers."""
    place = {int(item): i for i, item in enumerate(batch.items_N)}
    similarity = emb @ emb.T / temperature
    known = {(a, p) for a, p, *_ in rows} | {(p, a) for a, p, *_ in rows}

    def one(source, target, candidates):
        others = [c for c in candidates if c not in (source, target) and (source, c) not in known]
        scores = [similarity[place[source], place[c]] for c in [target, *others]]
        return torch.logsumexp(torch.stack(scores), 0) - scores[0]

    forward = {p for _, p, *_ in rows} | {n for _, _, *negatives in rows for n in negatives if n >= 0}
    losses = [one(a, p, forward) for a, p, *_ in rows]
    if symmetric:
        losses += [one(p, a, {row[0] for row in rows}) for a, p, *_ in rows]
    return torch.stack(losses).mean()


# Few items, so that repeats, shared positives, and items that are both anchor and positive are common.
ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 9)).filter(lambda row: row[0] != row[1]),
    min_size=2,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from([0.02, 0.05, 1.0]), st.booleans(), st.integers(0, 2**16))
def test_equals_the_formula(rows, temperature, symmetric, seed):
    batch = batch_of(rows)
    ours, plain = embeddings(batch, seed), embeddings(batch, seed)
    loss = InfoNCE(temperature, symmetric)(ours, batch)
    oracle = by_hand(plain, batch, rows, temperature, symmetric)
    loss.backward()
    oracle.backward()
    torch.testing.assert_close(loss, oracle)
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_sentence_transformers_where_no_text_repeats(symmetric):
    rows = [(i, 10 + i) for i in range(10)]
    batch = batch_of(rows)
    emb = embeddings(batch)
    directions = ("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",)
    oracle = MultipleNegativesRankingLoss(None, scale=20.0, directions=directions, partition_mode="per_direction")
    expected = oracle.compute_loss_from_embeddings([emb[:10], emb[10:]], torch.arange(10))
    torch.testing.assert_close(InfoNCE(0.05, symmetric)(emb, batch), expected)


def test_equals_sentence_transformers_with_hard_negatives():
    batch = batch_of([(i, 10 + i, 20 + i) for i in range(10)])
    emb = embeddings(batch)
    expected = MultipleNegativesRankingLoss(None, scale=20.0).compute_loss_from_embeddings(
        [emb[:10], emb[10:20], emb[20:]], torch.arange(10)
    )
    torch.testing.assert_close(InfoNCE(0.05, symmetric=False)(emb, batch), expected)


def test_a_known_positive_of_another_row_is_not_a_negative():
    # Two descriptions of one word and two words of one description: no negative is left.
    assert InfoNCE()(embeddings(batch_of([(0, 2), (1, 2)])), batch_of([(0, 2), (1, 2)])).item() == 0
    assert InfoNCE()(embeddings(batch_of([(0, 1), (0, 2)])), batch_of([(0, 1), (0, 2)])).item() == 0


def test_equal_embeddings_have_the_loss_of_chance():
    batch = batch_of([(i, 4 + i) for i in range(4)])
    loss = InfoNCE()(torch.ones(8, 3, dtype=torch.float64), batch)
    assert loss.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradcheck(symmetric):
    batch = batch_of([(0, 5, 8), (1, 6, -1), (2, 5, 9), (5, 1, -1)])
    assert torch.autograd.gradcheck(lambda emb: InfoNCE(0.5, symmetric)(emb, batch), embeddings(batch))


def test_items_of_one_group_are_not_negatives_of_each_other():
    batch = batch_of([(0, 1), (2, 3), (4, 5)])
    emb_ND = embeddings(batch)
    # 0 and 2 are in one group: each is a known positive of the other, and of its positive.
    grouped = replace(batch, group_N=torch.tensor([7, 7, 7, 7, -1, -2]))
    apart = replace(batch, known_E2=torch.tensor([(a, b) for a in range(4) for b in range(4) if a != b]))
    torch.testing.assert_close(InfoNCE(0.1, True)(emb_ND, grouped), InfoNCE(0.1, True)(emb_ND, apart))
    assert not torch.isclose(InfoNCE(0.1, True)(emb_ND, grouped), InfoNCE(0.1, True)(emb_ND, batch))


def test_rows_count_by_their_weight():
    batch = batch_of([(0, 1), (2, 3), (4, 5)])
    emb_ND = embeddings(batch)
    loss = InfoNCE(0.1, False)
    even = replace(batch, weight_B=torch.full((3,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(loss(emb_ND, even), loss(emb_ND, batch))
    twice = replace(batch, weight_B=torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    each = [replace(batch, weight_B=torch.eye(3, dtype=torch.float64)[i]) for i in range(3)]
    expected = (2 * loss(emb_ND, each[0]) + loss(emb_ND, each[1])) / 3
    torch.testing.assert_close(loss(emb_ND, twice), expected)
