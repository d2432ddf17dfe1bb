"""Exact nearest neighbours by dot product, in blocks of bounded memory.

Shapes: Q queries, M documents (m of one block), D embedding width, k cut-off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from finetune.errors import FinetuneError
from finetune.evaluation.bf16_prefilter import Bf16Prefilter, CandidatePairs, pad_rows

_INDEX_MASK = 0xFFFFFFFF
_QUERIES_AT_ONCE = 1024
_PAIRS_AT_ONCE = 2048


def top_k(
    queries_QD: np.ndarray | Tensor,
    corpus_MD: np.ndarray | Tensor,
    k: int,
    block: int = 2**24,
    device: torch.device | str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k documents of highest dot product for every query, as (scores_Qk float32, index_Qk int64).

    Scores descend; of equal scores the smaller index comes first, also across the cut-off. With fewer than k
    documents all are returned. Computed in fp32 on `device`, without one where the queries are; a part of the corpus at
    a time goes there, `block` is the number of scores held at once. Raises FinetuneError for embeddings that are not
    finite, not of one width, or an empty corpus.
    """
    queries_QD, corpus_MD = torch.as_tensor(queries_QD), torch.as_tensor(corpus_MD)
    check_embeddings(queries_QD, corpus_MD)
    queries_QD = queries_QD.to(device or queries_QD.device)
    k = min(k, len(corpus_MD))
    with torch.no_grad(), _full_precision(queries_QD.device.type):
        sieve = None
        if Bf16Prefilter.is_worth_it(len(queries_QD), len(corpus_MD), k, queries_QD.device):
            corpus_MD = corpus_MD.float()
            sieve = Bf16Prefilter(corpus_MD, block)
        parts = [
            _search(part.float(), corpus_MD, k, block, sieve) for part in torch.split(queries_QD, _QUERIES_AT_ONCE)
        ]
    scores_Qk, index_Qk = _unpack(torch.cat(parts))
    return scores_Qk.cpu().numpy(), index_Qk.cpu().numpy()


def _search(queries_QD: Tensor, corpus_MD: Tensor, k: int, block: int, sieve: Bf16Prefilter | None) -> Tensor:
    """Keys of the k best documents of each query, (Q, k)."""
    if sieve is not None and (found := sieve.candidates(queries_QD, k)) is not None:
        return _best_of_some(queries_QD, corpus_MD, k, found)
    rows = max(1, block // max(1, len(queries_QD)))
    best_Qk = torch.empty((len(queries_QD), 0), dtype=torch.int64, device=queries_QD.device)
    for start in range(0, len(corpus_MD), rows):
        scores_Qm = queries_QD @ corpus_MD[start : start + rows].to(queries_QD.device).float().T
        best_Qk = torch.cat([best_Qk, _best_of_block(scores_Qm, start, k)], dim=1)
        best_Qk = best_Qk.topk(min(k, best_Qk.shape[1]), dim=1).values
    return best_Qk


def _best_of_some(queries_QD: Tensor, corpus_MD: Tensor, k: int, found: CandidatePairs) -> Tensor:
    """Keys of the k best among the pairs that were found."""
    key_P = torch.empty(len(found.query), dtype=torch.int64)
    for part in torch.split(torch.arange(len(key_P)), _PAIRS_AT_ONCE):
        query_p, document_p = found.query[part], found.document[part]
        # Not a matrix product: the sum of a row must not depend on where it stands, or equal documents would differ.
        score_p = (queries_QD.index_select(0, query_p) * corpus_MD.index_select(0, document_p)).sum(1)
        key_P[part] = _pack(score_p, document_p)
    lowest = torch.iinfo(torch.int64).min
    return pad_rows(found.query, key_P, lowest, len(queries_QD)).topk(k, dim=1).values


def _best_of_block(scores_Qm: Tensor, start: int, k: int) -> Tensor:
    """Keys of the k best of one block, exact at the cut-off, where topk alone keeps any of equal scores."""
    found = scores_Qm.topk(min(k + 1, scores_Qm.shape[1]), dim=1)
    keys_Qk = _pack(found.values[:, :k], found.indices[:, :k] + start)
    if scores_Qm.shape[1] > k:
        # One more than asked shows which queries have equals on both sides of the cut; packing every
        # score would settle all of them too, but costs several times the matrix product.
        split = (found.values[:, k - 1] == found.values[:, k]).nonzero()[:, 0]
        if len(split):
            index_m = torch.arange(start, start + scores_Qm.shape[1], device=scores_Qm.device)
            keys_Qk[split] = _pack(scores_Qm[split], index_m).topk(k, dim=1).values
    return keys_Qk


def _pack(scores: Tensor, index: Tensor) -> Tensor:
    """One int64 per hit that sorts like (score up, index down)."""
    # Adding zero turns -0.0, which equals 0.0 but has other bits, into 0.0.
    return (_sortable((scores + 0.0).view(torch.int32)).to(torch.int64) << 32) | (_INDEX_MASK - index)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    return _sortable((keys >> 32).to(torch.int32)).view(torch.float32), _INDEX_MASK - (keys & _INDEX_MASK)


def _sortable(bits: Tensor) -> Tensor:
    """Float bits as integers of the same order (negative floats sort backwards by their bits), and back again."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def check_embeddings(queries_QD: np.ndarray | Tensor, corpus_MD: np.ndarray | Tensor) -> None:
    """Raises FinetuneError for embeddings that are not finite, not of one width, or an empty corpus."""
    queries_QD, corpus_MD = torch.as_tensor(queries_QD), torch.as_tensor(corpus_MD)
    if not len(corpus_MD):
        raise FinetuneError("the corpus to search in is empty.", "Give at least one document.")
    if queries_QD.shape[1] != corpus_MD.shape[1]:
        raise FinetuneError(
            f"the queries have {queries_QD.shape[1]} dimensions and the documents {corpus_MD.shape[1]}.",
            "Encode both with the same model.",
        )
    for what, embeddings in (("query", queries_QD), ("document", corpus_MD)):
        # A finite length also rules out that a product overflows (Cauchy-Schwarz).
        bad = int((~torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.float32).square().isfinite()).sum())
        if bad:
            raise FinetuneError(
                f"{bad} of {len(embeddings)} {what} embeddings are not numbers (NaN or infinite).",
                "The training has diverged: try a lower optimizer.lr, or trainer.precision=32-true.",
            )


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """fp32 products whatever the training set: TF32, bf16 or autocast would reorder close documents."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
