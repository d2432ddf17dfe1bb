"""The search of an evaluation on a GPU finds what it finds on a CPU."""

import numpy as np
import pytest
import torch

from finetune.evaluation.search import top_k

pytestmark = pytest.mark.gpu


def test_the_same_hits_in_the_same_order_with_many_equal_scores(device):
    # Dot products of small integers are exact in fp32, whatever the order of the sum.
    random = np.random.default_rng(0)
    queries_QD = random.integers(-3, 4, (300, 32)).astype(np.float32)
    corpus_MD = random.integers(-3, 4, (5000, 32)).astype(np.float32)
    scores_Qk, index_Qk = top_k(queries_QD, corpus_MD, 20, block=2**18, device=device)
    exact_QM = queries_QD.astype(np.int64) @ corpus_MD.astype(np.int64).T
    expected_Qk = np.argsort(-exact_QM, axis=1, kind="stable")[:, :20]
    assert np.array_equal(index_Qk, expected_Qk)
    assert np.array_equal(scores_Qk, np.take_along_axis(exact_QM, expected_Qk, 1))
    assert (np.diff(scores_Qk) == 0).any()


def test_scores_are_those_of_fp32_although_training_uses_less(device):
    random = np.random.default_rng(0)
    queries_QD, corpus_MD = (random.standard_normal((rows, 256)).astype(np.float32) for rows in (64, 3000))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device.type, torch.bfloat16):
            scores_Qk, index_Qk = top_k(queries_QD, corpus_MD, 10, device=device)
    finally:
        torch.set_float32_matmul_precision(before)
    exact_QM = queries_QD.astype(np.float64) @ corpus_MD.astype(np.float64).T
    assert scores_Qk == pytest.approx(np.take_along_axis(exact_QM, index_Qk, 1), abs=1e-4)
    assert scores_Qk == pytest.approx(-np.sort(-exact_QM, 1)[:, :10], abs=1e-4)
