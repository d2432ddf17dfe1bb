"""A first pass in bf16 that excludes documents that cannot be among the best, so that few scores are computed in fp32.

The search stays exact: the difference of a product in bf16 from that in fp32 is bounded by the rounding of the
embeddings (Cauchy-Schwarz) and of sums (Higham 2002, https://doi.org/10.1137/1.9780898718027, chapter 3).

Shapes: Q queries, M documents (m of one block), D embedding width, k cut-off, P pairs of a query and a document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_HALF_STEP = 2.0**-8  # relative rounding error of a bf16 number
_SUM = 2.0**-22  # rounding error of two sums of D products in fp32, relative, divided by D
_MIN_PRODUCTS = 2**24  # with fewer products two passes are slower than one
_FIRST = 1024  # documents of the first block; each next block is twice as large, and contains about k candidates
_TOO_MANY = 16  # times k candidates per query and block: the scores are too close together for bf16


class CandidatePairs(NamedTuple):
    """Pairs that may be among the best: indices of queries and documents, both (P,), ascending by query."""

    query: Tensor
    document: Tensor


class Bf16Prefilter:
    """The corpus `(M, D)` in bf16, in addition to the one in fp32, for any number of queries."""

    def __init__(self, corpus_MD: Tensor, block: int) -> None:
        self._corpus_MD, self._block = corpus_MD.bfloat16(), block
        blocks = zip(torch.split(corpus_MD, _FIRST), torch.split(self._corpus_MD, _FIRST), strict=True)
        rounded = [torch.linalg.vector_norm(exact - rough.float(), dim=1).max() for exact, rough in blocks]
        self._rounded = float(torch.stack(rounded).max())
        self._longest = float(torch.linalg.vector_norm(corpus_MD, dim=1).max())

    @staticmethod
    def is_faster(queries: int, documents: int, k: int, device: torch.device) -> bool:
        """Return whether this processor multiplies bf16 faster than fp32, and the search is large enough."""
        if device.type != "cpu":
            return False
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
        return has_bf16 and queries * documents >= _MIN_PRODUCTS and documents >= _TOO_MANY * max(k, _FIRST)

    def candidates(self, queries_QD: Tensor, k: int) -> CandidatePairs | None:
        """Return pairs that include the k best of each query; None if there are too many candidates."""
        rough_QD = queries_QD.bfloat16()
        error_Q1 = self._errors(queries_QD, rough_QD)
        best_Qk = torch.empty(len(queries_QD), 0)
        cut_Q1 = torch.full((len(queries_QD), 1), -torch.inf, dtype=torch.bfloat16)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start, stop in self._blocks(len(queries_QD), k):
            score_Qm = rough_QD @ self._corpus_MD[start:stop].T
            if start == 0:
                best_Qk = score_Qm.float().topk(k, dim=1).values
                cut_Q1 = _cut(best_Qk, error_Q1)
            # np.flatnonzero takes a tenth of the time of torch.nonzero.
            flat_P = torch.from_numpy(np.flatnonzero((score_Qm >= cut_Q1).numpy()))
            if len(flat_P) > _TOO_MANY * k * len(queries_QD):
                return None
            query_P, score_P = flat_P // (stop - start), score_Qm.view(-1)[flat_P]
            parts.append((query_P, flat_P % (stop - start) + start, score_P))
            if start > 0:
                best_Qk = torch.cat([best_Qk, pad_rows(query_P, score_P.float(), -torch.inf, len(best_Qk))], dim=1)
                best_Qk = best_Qk.topk(k, dim=1).values
                cut_Q1 = _cut(best_Qk, error_Q1)
        query_P, document_P, score_P = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = (score_P >= cut_Q1[query_P, 0]).nonzero()[:, 0]
        kept = kept[query_P[kept].argsort(stable=True)]
        return CandidatePairs(query_P[kept], document_P[kept])

    def _errors(self, queries_QD: Tensor, rough_QD: Tensor) -> Tensor:
        """Return a bound of the difference between products in bf16, before rounding, and in fp32, (Q, 1)."""
        length_Q1 = torch.linalg.vector_norm(queries_QD, dim=1, keepdim=True)
        rounded_Q1 = torch.linalg.vector_norm(queries_QD - rough_QD.float(), dim=1, keepdim=True)
        sums_Q1 = _SUM * queries_QD.shape[1] * length_Q1 * self._longest
        errors_Q1: Tensor = rounded_Q1 * self._longest + (length_Q1 + rounded_Q1) * self._rounded + sums_Q1
        return 1.01 * errors_Q1  # a margin, since the bound itself is computed in fp32

    def _blocks(self, queries: int, k: int) -> Iterator[tuple[int, int]]:
        most, start, rows = max(_FIRST, self._block // queries), 0, max(_FIRST, 4 * k)
        while start < len(self._corpus_MD):
            stop = min(start + rows, len(self._corpus_MD))
            yield start, stop
            start, rows = stop, min(most, 2 * rows)


def _cut(best_Qk: Tensor, error_Q1: Tensor) -> Tensor:
    """Return a lower bound of the bf16 scores of the k best of each query, (Q, 1); `best_Qk` are the k best so far.

    These k are above `low` in fp32, so the final k best are too; rounding keeps the order.
    """
    last_Q1 = best_Qk[:, -1:]
    low_Q1 = last_Q1 - _HALF_STEP * last_Q1.abs() - error_Q1
    return (low_Q1 - error_Q1).bfloat16()


def pad_rows(query_P: Tensor, value_P: Tensor, fill: float, queries: int) -> Tensor:
    """Return the values of each query in a row, padded with `fill`: (Q, maximum number per query).

    `query_P` is ascending.
    """
    counts_Q = torch.bincount(query_P, minlength=queries)
    place_P = torch.arange(len(query_P)) - (counts_Q.cumsum(0) - counts_Q)[query_P]
    rows = torch.full((queries, int(counts_Q.max())), fill, dtype=value_P.dtype)
    rows[query_P, place_P] = value_P
    return rows
