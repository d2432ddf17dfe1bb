"""Exact nearest neighbours by dot product, in blocks of bounded memory.

Shapes: Q queries (q of one block), M documents (m of one block), D embedding width, k cut-off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from finetune import devices
from finetune.errors import FinetuneError
from finetune.evaluation.bf16_prefilter import Bf16Prefilter, CandidatePairs, pad_rows

_INDEX_MASK = 0xFFFFFFFF
QUERIES_AT_ONCE = 256  # also the unit in which several processes share a search
_PAIRS_AT_ONCE = 2048
_ALL = slice(None)


def top_k(
    queries_QD: np.ndarray | Tensor,
    corpus_MD: np.ndarray | Tensor,
    k: int,
    block: int = 2**24,
    device: torch.device | str | None = None,
    share: slice = _ALL,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k documents with the highest dot product for every query, as (scores_Qk float32, index_Qk int64).

    Scores descend; of equal scores the smaller index is first, also at the cut-off. With fewer than k documents all are
    returned. Computed in fp32 on `device`, by default that of the queries, to which the corpus is moved, in parts if
    it is large; `block` is the number of scores in memory at the same time.

    `share` selects some of the blocks of `QUERIES_AT_ONCE` queries, such as `slice(rank, None, world)`; the scores and
    indices of all other queries are 0. A query has the same result in every share.

    Raises:
        FinetuneError: the corpus is empty, or the embeddings are not finite or differ in width.
    """
    queries_QD, corpus_MD = torch.as_tensor(queries_QD), torch.as_tensor(corpus_MD)
    check_embeddings(queries_QD, corpus_MD)
    queries_QD = queries_QD.to(device or queries_QD.device)
    if queries_QD.is_cuda and corpus_MD.nbytes <= devices.of(queries_QD.device).available() // 2:
        corpus_MD = corpus_MD.to(queries_QD.device)  # once, and not for every block of queries
    k = min(k, len(corpus_MD))
    with torch.no_grad(), _full_precision(queries_QD.device.type):
        prefilter = None
        if Bf16Prefilter.is_faster(len(queries_QD), len(corpus_MD), k, queries_QD.device):
            corpus_MD = corpus_MD.float()
            prefilter = Bf16Prefilter(corpus_MD, block)
        scores_Qk = torch.zeros((len(queries_QD), k), device=queries_QD.device)
        index_Qk = torch.zeros((len(queries_QD), k), dtype=torch.int64, device=queries_QD.device)
        for first in range(0, len(queries_QD), QUERIES_AT_ONCE)[share]:
            rows = slice(first, first + QUERIES_AT_ONCE)
            keys_qk = _search(queries_QD[rows].float(), corpus_MD, k, block, prefilter)
            scores_Qk[rows], index_Qk[rows] = _unpack(keys_qk)
    return scores_Qk.cpu().numpy(), index_Qk.cpu().numpy()


def _search(queries_QD: Tensor, corpus_MD: Tensor, k: int, block: int, prefilter: Bf16Prefilter | None) -> Tensor:
    """Return the keys of the k best documents of each query, (Q, k)."""
    candidates = None if prefilter is None else prefilter.candidates(queries_QD, k)
    if candidates is not None:
        return _best_of_candidates(queries_QD, corpus_MD, k, candidates)
    rows = max(1, block // max(1, len(queries_QD)))
    best_Qk = torch.empty((len(queries_QD), 0), dtype=torch.int64, device=queries_QD.device)
    for start in range(0, len(corpus_MD), rows):
        scores_Qm = queries_QD @ corpus_MD[start : start + rows].to(queries_QD.device).float().T
        best_Qk = torch.cat([best_Qk, _best_of_block(scores_Qm, start, k)], dim=1)
        best_Qk = best_Qk.topk(min(k, best_Qk.shape[1]), dim=1).values
    return best_Qk


def _best_of_candidates(queries_QD: Tensor, corpus_MD: Tensor, k: int, pairs: CandidatePairs) -> Tensor:
    """Return the keys of the k best candidates of each query, (Q, k)."""
    key_P = torch.empty(len(pairs.query), dtype=torch.int64)
    for part in torch.split(torch.arange(len(key_P)), _PAIRS_AT_ONCE):
        query_p, document_p = pairs.query[part], pairs.document[part]
        # Not a matrix product, where the sum of a row depends on its position: equal documents must have equal scores.
        score_p = (queries_QD.index_select(0, query_p) * corpus_MD.index_select(0, document_p)).sum(1)
        key_P[part] = _pack(score_p, document_p)
    lowest = torch.iinfo(torch.int64).min
    return pad_rows(pairs.query, key_P, lowest, len(queries_QD)).topk(k, dim=1).values


def _best_of_block(scores_Qm: Tensor, start: int, k: int) -> Tensor:
    """Return the keys of the k best of one block, (Q, k), with ties at the cut-off resolved, unlike in `topk`."""
    best = scores_Qm.topk(min(k + 1, scores_Qm.shape[1]), dim=1)
    keys_Qk = _pack(best.values[:, :k], best.indices[:, :k] + start)
    if scores_Qm.shape[1] > k:
        # The score after the k-th shows which queries have a tie at the cut-off. Packing all scores of all queries
        # would resolve ties too, but takes several times as long as the matrix product.
        tied = (best.values[:, k - 1] == best.values[:, k]).nonzero()[:, 0]
        if len(tied):
            index_m = torch.arange(start, start + scores_Qm.shape[1], device=scores_Qm.device)
            keys_Qk[tied] = _pack(scores_Qm[tied], index_m).topk(k, dim=1).values
    return keys_Qk


def _pack(scores: Tensor, index: Tensor) -> Tensor:
    """Return one int64 per hit that sorts by score ascending, then by index descending."""
    # Adding zero turns -0.0 into 0.0, which is equal but has different bits.
    return (_sortable((scores + 0.0).view(torch.int32)).to(torch.int64) << 32) | (_INDEX_MASK - index)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    return _sortable((keys >> 32).to(torch.int32)).view(torch.float32), _INDEX_MASK - (keys & _INDEX_MASK)


def _sortable(bits: Tensor) -> Tensor:
    """Map float bits to integers of the same order (the bits of negative floats sort backwards); its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def check_embeddings(queries_QD: np.ndarray | Tensor, corpus_MD: np.ndarray | Tensor) -> None:
    """Raise FinetuneError if the corpus is empty, or the embeddings are not finite or differ in width."""
    queries_QD, corpus_MD = torch.as_tensor(queries_QD), torch.as_tensor(corpus_MD)
    if not len(corpus_MD):
        raise FinetuneError("the corpus to search in is empty.", "Give at least one document.")
    if queries_QD.shape[1] != corpus_MD.shape[1]:
        raise FinetuneError(
            f"the queries have {queries_QD.shape[1]} dimensions and the documents {corpus_MD.shape[1]}.",
            "Encode both with the same model.",
        )
    for what, embeddings in (("query", queries_QD), ("document", corpus_MD)):
        # A finite norm also excludes that a product overflows (Cauchy-Schwarz).
        bad = int((~torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.float32).square().isfinite()).sum())
        if bad:
            raise FinetuneError(
                f"{bad} of {len(embeddings)} {what} embeddings are not finite (NaN or infinite).",
                "The training has diverged: try a lower optimizer.lr, or trainer.precision=32-true.",
            )


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Compute matrix products in fp32 whatever the training uses: TF32, bf16 or autocast would reorder close hits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
