"""The first pass in bf16 loses nothing: the results equal those of a full search."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.evaluation import bf16_prefilter
from finetune.evaluation.bf16_prefilter import Bf16Prefilter, pad_rows
from finetune.evaluation.search import top_k

from .test_search import brute_force


@pytest.fixture(autouse=True, scope="module")
def _always():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bf16Prefilter, "is_faster", lambda *_: True)
        patch.setattr(bf16_prefilter, "_FIRST", 16)
        yield


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 300), st.sampled_from([1, 30, 700]), st.booleans())
def test_integers_that_bf16_cannot_represent(seed: int, width: int, documents: int, most: int, twice: bool) -> None:
    """Exact in fp32, so that ties are ties, and too fine for bf16: 700 needs ten bits, and there are eight."""
    random = np.random.default_rng(seed)
    queries, corpus = (random.integers(-most, most + 1, (n, width)).astype(np.float32) for n in (5, documents))
    corpus = np.concatenate([corpus, corpus]) if twice else corpus
    for k in (1, 7):
        scores, index = top_k(queries, corpus, k, block=200)
        expected_scores, expected_index = brute_force(queries, corpus, k)
        np.testing.assert_array_equal(index, expected_index)
        np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("apart", [1e-3, 1.0])
def test_close_documents(scale: float, apart: float) -> None:
    random = np.random.default_rng(0)
    corpus = random.standard_normal(64) + apart * random.standard_normal((3000, 64))
    queries = (scale * random.standard_normal((40, 64))).astype(np.float32)
    corpus = corpus.astype(np.float32)
    scores, index = top_k(queries, corpus, 20, block=40 * 500)
    expected, _ = brute_force(queries, corpus, 20)
    # Scores that differ in the last bit of fp32 may be in any order, so the scores are compared.
    lengths = np.linalg.norm(queries, axis=1, keepdims=True) * np.linalg.norm(corpus, axis=1).max()
    assert np.abs(scores - expected).max() < 1e-6 * lengths.max()
    of_index = np.einsum("qd,qkd->qk", queries.astype(np.float64), corpus[index].astype(np.float64))
    assert (np.abs(of_index - expected) < 1e-6 * lengths).all()


def test_few_candidates_for_distant_documents() -> None:
    both = torch.nn.functional.normalize(torch.randn(8200, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    found = Bf16Prefilter(both[200:], 2**20).candidates(both[:200], 10)
    assert found is not None
    assert len(found.query) < 3 * 10 * 200


def test_a_collapsed_model_is_searched_in_full() -> None:
    corpus = torch.ones(5000, 8)
    assert Bf16Prefilter(corpus, 5000 * 3).candidates(torch.ones(3, 8), 7) is None
    _, index = top_k(np.ones((3, 8), np.float32), corpus.numpy(), 7)
    np.testing.assert_array_equal(index, [range(7)] * 3)


def test_pad_rows() -> None:
    rows = pad_rows(torch.tensor([0, 0, 2]), torch.tensor([5, 6, 7]), -1, 4)
    assert rows.tolist() == [[5, 6], [-1, -1], [7, -1], [-1, -1]]
