"""A first pass in bf16 that leaves out what cannot be among the best, so that few products are computed in fp32.

The search stays exact: how far a product in bf16 can be from that in fp32 is known from the rounding of the embeddings
(Cauchy-Schwarz) and of sums (Higham 2002, https://doi.org/10.1137/1.9780898718027, chapter 3).

Shapes: Q queries, M documents (m of one block), D embedding width, k cut-off, P pairs of a query and a document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_HALF_STEP = 2.0**-8  # of a bf16 number, relative to it
_SUM = 2.0**-22  # of a sum of D products in fp32, each half step and one more for two such sums, times D
_WORTH = 2**24  # products from which on a second pass pays
_FIRST = 1024  # documents of the first block; each of the next is twice as large, which finds about k in it
_TOO_MANY = 16  # times k candidates of a query and block: the products are too close together for bf16


class CandidatePairs(NamedTuple):
    """Pairs that may be among the best: places of queries and documents, both (P,), ascending by query."""

    query: Tensor
    document: Tensor


class Bf16Prefilter:
    """The corpus `(M, D)` in bf16, beside the one in fp32, for any number of queries."""

    def __init__(self, corpus_MD: Tensor, block: int) -> None:
        self._corpus_MD, self._block = corpus_MD.bfloat16(), block
        blocks = zip(torch.split(corpus_MD, _FIRST), torch.split(self._corpus_MD, _FIRST), strict=True)
        rounded = [torch.linalg.vector_norm(exact - rough.float(), dim=1).max() for exact, rough in blocks]
        self._rounded = float(torch.stack(rounded).max())
        self._longest = float(torch.linalg.vector_norm(corpus_MD, dim=1).max())

    @staticmethod
    def is_worth_it(queries: int, documents: int, k: int, device: torch.device) -> bool:
        """Return whether this processor multiplies bf16 faster than fp32, and there is enough to multiply."""
        capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
        return bool(fast) and queries * documents >= _WORTH and documents >= _TOO_MANY * max(k, _FIRST)

    def candidates(self, queries_QD: Tensor, k: int) -> CandidatePairs | None:
        """Return the pairs of which no other can be among the k best of its query; None if they are too many."""
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
            # NumPy finds what is true in a tenth of the time.
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
        """Return how far a query's product in bf16, before it is rounded itself, is from that in fp32 at most."""
        length_Q1 = torch.linalg.vector_norm(queries_QD, dim=1, keepdim=True)
        rounded_Q1 = torch.linalg.vector_norm(queries_QD - rough_QD.float(), dim=1, keepdim=True)
        sums_Q1 = _SUM * queries_QD.shape[1] * length_Q1 * self._longest
        errors_Q1: Tensor = rounded_Q1 * self._longest + (length_Q1 + rounded_Q1) * self._rounded + sums_Q1
        return 1.01 * errors_Q1  # these were computed in fp32 too

    def _blocks(self, queries: int, k: int) -> Iterator[tuple[int, int]]:
        most, start, rows = max(_FIRST, self._block // queries), 0, max(_FIRST, 4 * k)
        while start < len(self._corpus_MD):
            stop = min(start + rows, len(self._corpus_MD))
            yield start, stop
            start, rows = stop, min(most, 2 * rows)


def _cut(best_Qk: Tensor, error_Q1: Tensor) -> Tensor:
    """Return the score in bf16 that each of the k best has at least, (Q, 1), where `best_Qk` are k found so far.

    Those k are above `low` in fp32, and so is all that is among the best; rounding keeps the order.
    """
    last_Q1 = best_Qk[:, -1:]
    low_Q1 = last_Q1 - _HALF_STEP * last_Q1.abs() - error_Q1
    return (low_Q1 - error_Q1).bfloat16()


def pad_rows(query_P: Tensor, value_P: Tensor, fill: float, queries: int) -> Tensor:
    """Return the values of each query in a row of its own, (Q, most of a query); the places left over are `fill`.

    `query_P` ascends.
    """
    counts_Q = torch.bincount(query_P, minlength=queries)
    place_P = torch.arange(len(query_P)) - (counts_Q.cumsum(0) - counts_Q)[query_P]
    rows = torch.full((queries, int(counts_Q.max())), fill, dtype=value_P.dtype)
    rows[query_P, place_P] = value_P
    return rows
