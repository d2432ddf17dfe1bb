"""Comparing embeddings by the similarity of their model: all pairs, and exact search in blocks.

Shapes: Q queries, M documents, D dimensions, k cut-off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.arguments import is_whole_number
from finetune.data.arrays import Ints
from finetune.errors import FinetuneError
from finetune.evaluation.search import top_k
from finetune.inference.quantize import Floats

_ROWS = 1 << 17  # documents that are prepared at a time


class Hits(NamedTuple):
    """The `k` best documents of each query: their `scores` `(Q, k)` float32, best first, and `indices` `(Q, k)`."""

    scores: Floats
    indices: Ints


def as_vectors(values: Any, what: str) -> Floats:
    """Return embeddings `(N, D)` as finite float32 numbers.

    Raises:
        FinetuneError: they are no matrix of floating-point numbers, or have NaN.
    """
    try:
        vectors = np.asarray(values)
    except ValueError as error:
        raise FinetuneError(f"{what} has rows of several lengths.", "Encode all with one model.") from error
    if vectors.dtype.kind != "f":
        advice = "Give embeddings in float32, as model.encode returns them."
        raise FinetuneError(f"{what} has values of type {vectors.dtype}, not floating-point numbers.", advice)
    if vectors.ndim != 2:
        advice = "Give a matrix with a row for each item; of one vector v that is v[None]."
        raise FinetuneError(f"{what} has {vectors.ndim} dimension{'s' * (vectors.ndim != 1)}, not 2.", advice)
    for start in range(0, len(vectors), _ROWS):
        bad = int((~np.isfinite(vectors[start : start + _ROWS]).all(axis=1)).sum())
        if bad:
            raise FinetuneError(f"{bad} rows of {what} are not finite (NaN or infinite).", "Leave such vectors out.")
    return vectors


def check_count(k: Any) -> None:
    """Raise FinetuneError if `k` is not a number of documents to return."""
    if not is_whole_number(k):
        raise FinetuneError(f"k={k!r} is not a number of documents.", "Give a whole number, at least 1.")


def check_widths(a_ND: Floats, b_MD: Floats) -> None:
    """Raise FinetuneError if two matrices of embeddings differ in width."""
    if a_ND.shape[1] != b_MD.shape[1]:
        what = f"the vectors have {a_ND.shape[1]} and {b_MD.shape[1]} dimensions."
        raise FinetuneError(what, "Encode both with the same model and the same dimensions.")


def similarity(a_ND: Floats, b_MD: Floats, function: str) -> Floats:
    """Return the similarity `(N, M)` of all pairs: cosine, dot product, or negated euclidean or manhattan distance.

    Raises:
        FinetuneError: the vectors differ in width.
    """
    check_widths(a_ND, b_MD)
    return _compare(_tensor(a_ND), _tensor(b_MD), function).numpy()


def _compare(a_ND: Tensor, b_MD: Tensor, function: str) -> Tensor:
    if function == "euclidean":
        return -torch.cdist(a_ND, b_MD, compute_mode="donot_use_mm_for_euclid_dist")
    if function == "manhattan":
        return -torch.cdist(a_ND, b_MD, p=1)
    if function == "cosine":
        a_ND, b_MD = nn.functional.normalize(a_ND, dim=1), nn.functional.normalize(b_MD, dim=1)
    return a_ND @ b_MD.T


def search(queries_QD: Floats, blocks: Iterable[Floats], k: int, function: str, device: torch.device) -> Hits:
    """Return the k documents that are most similar to each query; exact, in memory that the corpus does not change.

    `blocks` are the embeddings of consecutive documents, `(m, D)` each. Of equal scores the first document counts.
    """
    queries = _tensor(queries_QD)
    if function == "cosine":
        queries = nn.functional.normalize(queries, dim=1)
    best = Hits(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    start = 0
    for block in blocks:
        for first in range(0, len(block), _ROWS):
            corpus_MD = block[first : first + _ROWS]
            check_widths(queries_QD, corpus_MD)
            best = _merged(best, _search(queries, _tensor(corpus_MD), k, function, device), start, k)
            start += len(corpus_MD)
    if not start:
        raise FinetuneError("the corpus to search in is empty.", "Give at least one document.")
    return best


def _search(queries_QD: Tensor, corpus_MD: Tensor, k: int, function: str, device: torch.device) -> Hits:
    if function in ("cosine", "dot"):
        if function == "cosine":
            corpus_MD = nn.functional.normalize(corpus_MD, dim=1)
        return Hits(*top_k(queries_QD, corpus_MD, k, device=device))
    scores_QM = _compare(queries_QD, corpus_MD, function)
    order_Qk = scores_QM.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return Hits(scores_QM.gather(1, order_Qk).numpy(), order_Qk.numpy())


def _merged(best: Hits, new: Hits, start: int, k: int) -> Hits:
    """Return the k best of two results; the documents of `new` are counted from `start`."""
    scores = np.concatenate([best.scores, new.scores], axis=1)
    indices = np.concatenate([best.indices, new.indices + start], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Hits(np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1))


def _tensor(values: NDArray[Any]) -> Tensor:
    """Return a matrix as a tensor in fp32, copied if it is read-only, as a memory-mapped file is."""
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
