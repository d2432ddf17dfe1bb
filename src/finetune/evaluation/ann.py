"""Approximate nearest neighbor search, by an index that does not score every document.

Shapes: Q queries, M documents, D width, K hits.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CheckFailed, Problem
from finetune.evaluation.search import check_embeddings

Floats = NDArray[np.float32]
EXTRA = "Install it: pip install 'finetune[index]', or search exactly (index: exact)."

_ADDED_BY_ONE_THREAD = 4096


def is_installed() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("usearch") is not None


def add_vectors(index: Any, vectors_ND: Floats) -> None:
    """Add vectors to an index of usearch; their keys are their numbers, in the order in which they are added.

    The first ones are added by one thread: several threads at an almost empty graph leave vectors without a link to the
    others, which no search finds (measured with usearch 2: 44 of 200 searches among 300 vectors).
    """
    first = len(index)
    alone = min(len(vectors_ND), max(0, _ADDED_BY_ONE_THREAD - first))
    for start, end, threads in ((0, alone, 1), (alone, len(vectors_ND), 0)):  # 0: as many as there are cores
        if start < end:
            index.add(np.arange(first + start, first + end), vectors_ND[start:end], threads=threads)


def approximate_top_k(queries_QD: Floats, corpus_MD: Floats, k: int) -> NDArray[np.int64]:
    """Return approximately the k documents with the highest dot product for every query `(Q, K)`, best first.

    Padded with -1 where fewer were found. Uses the HNSW graph of usearch with its default settings (Malkov and Yashunin
    2018, https://arxiv.org/abs/1603.09320). Of equal scores the smaller index is first.

    Raises:
        CheckFailed: the package is not installed.
        FinetuneError: as `top_k`.
    """
    if not is_installed():
        raise CheckFailed([Problem("evaluation", "an approximate index needs the package usearch.", EXTRA)])
    from usearch.index import Index

    check_embeddings(queries_QD, corpus_MD)
    k = min(k, len(corpus_MD))
    index = Index(ndim=corpus_MD.shape[1], metric="ip", dtype="f32")
    add_vectors(index, corpus_MD)
    matches: Any = index.search(queries_QD, k)
    keys_QK = np.asarray(matches.keys, np.int64).reshape(len(queries_QD), -1)
    distance_QK = np.asarray(matches.distances, np.float32).reshape(keys_QK.shape)
    # Entries after the last match of a query are uninitialized.
    is_match_QK = np.arange(keys_QK.shape[1]) < np.atleast_1d(matches.counts)[:, None]
    distance_QK, keys_QK = np.where(is_match_QK, distance_QK, np.inf), np.where(is_match_QK, keys_QK, -1)
    return np.take_along_axis(keys_QK, np.lexsort((keys_QK, distance_QK)), axis=1)
