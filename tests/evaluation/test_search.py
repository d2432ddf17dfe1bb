import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from finetune.errors import FinetuneError
from finetune.evaluation.search import _pack, top_k


def brute_force(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(np.float64) @ corpus.astype(np.float64).T
    index = np.stack([np.lexsort((np.arange(len(corpus)), -row)) for row in scores])[:, :k]
    return np.take_along_axis(scores, index, axis=1), index


def test_the_nearest_come_first() -> None:
    random = np.random.default_rng(0)
    queries, corpus = random.standard_normal((700, 16)), random.standard_normal((3000, 16))
    scores, index = top_k(queries.astype(np.float32), corpus.astype(np.float32), 20, block=100_000)
    expected_scores, expected_index = brute_force(queries, corpus, 20)
    assert (scores.dtype, index.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@st.composite
def tied_embeddings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Small whole numbers: exact in fp32, full of ties, zeros and negative zeros."""
    width = draw(st.integers(1, 3))
    values = st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0])
    queries = draw(arrays(np.float32, (draw(st.integers(1, 4)), width), elements=values))
    return queries, draw(arrays(np.float32, (draw(st.integers(1, 40)), width), elements=values))


@given(tied_embeddings(), st.integers(1, 45), st.integers(1, 60))
def test_ties_are_sorted_by_index_at_the_cut_off_and_across_blocks(embeddings, k: int, block: int) -> None:
    queries, corpus = embeddings
    scores, index = top_k(queries, corpus, k, block=block)
    expected_scores, expected_index = brute_force(queries, corpus, k)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("seed", range(6))
def test_a_large_corpus_full_of_equal_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    queries, corpus = (random.integers(-2, 3, (n, 1 + seed)).astype(np.float32) for n in (20, 3000 + seed))
    for k, block in ((1, 2**23), (9, 40_000), (40, 2**23)):
        expected_scores, expected_index = brute_force(queries, corpus, k)
        scores, index = top_k(queries, corpus, k, block=block)
        np.testing.assert_array_equal(index, expected_index)
        np.testing.assert_array_equal(scores, expected_scores)


def test_a_collapsed_model_ranks_by_index() -> None:
    _, index = top_k(np.ones((3, 8), np.float32), np.ones((5000, 8), np.float32), 7, block=999)
    np.testing.assert_array_equal(index, [range(7)] * 3)


def test_zero_equals_negative_zero() -> None:
    # Whether a matrix product returns -0.0 depends on the library and the device.
    keys = _pack(torch.tensor([0.0, -0.0, 1.0, -1.0]), torch.tensor([5, 4, 9, 1]))
    assert keys.argsort(descending=True).tolist() == [2, 1, 0, 3]


def test_k_beyond_the_corpus_returns_all_documents() -> None:
    scores, index = top_k(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 10)
    assert scores.tolist() == [[1, 0], [1, 0]]
    assert index.tolist() == [[0, 1], [1, 0]]


def test_the_precision_of_the_training_has_no_effect() -> None:
    random = np.random.default_rng(0)
    queries, corpus = (random.standard_normal((n, 64)).astype(np.float32) for n in (50, 2000))
    expected = top_k(queries, corpus, 50)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = top_k(queries, corpus, 50)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


def test_tensors_with_gradients_and_half_precision_are_searched_in_fp32() -> None:
    embeddings = torch.randn(20, 8, dtype=torch.bfloat16, requires_grad=True)
    scores, _ = top_k(embeddings, embeddings, 3)
    exact = embeddings.detach().float() @ embeddings.detach().float().T
    np.testing.assert_array_equal(scores[:, 0], exact.max(dim=1).values.numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("side", ["query", "document"])
def test_non_finite_embeddings_are_counted(bad: float, side: str) -> None:
    good = np.ones((4, 3), np.float32)
    spoilt = good.copy()
    spoilt[1, 2] = spoilt[3, 0] = bad
    with pytest.raises(FinetuneError, match=f"2 of 4 {side} embeddings are not finite"):
        top_k(*((spoilt, good) if side == "query" else (good, spoilt)), 1)


def test_different_widths_and_an_empty_corpus() -> None:
    with pytest.raises(FinetuneError, match="3 dimensions and the documents 4"):
        top_k(np.ones((1, 3)), np.ones((1, 4)), 1)
    with pytest.raises(FinetuneError, match="corpus to search in is empty"):
        top_k(np.ones((1, 3)), np.ones((0, 3)), 1)
