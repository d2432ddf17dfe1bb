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


def is_installed() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("usearch") is not None


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
    index.add(np.arange(len(corpus_MD)), corpus_MD)
    matches: Any = index.search(queries_QD, k)
    keys_QK = np.asarray(matches.keys, np.int64).reshape(len(queries_QD), -1)
    distance_QK = np.asarray(matches.distances, np.float32).reshape(keys_QK.shape)
    # Entries after the last match of a query are uninitialized.
    is_match_QK = np.arange(keys_QK.shape[1]) < np.atleast_1d(matches.counts)[:, None]
    distance_QK, keys_QK = np.where(is_match_QK, distance_QK, np.inf), np.where(is_match_QK, keys_QK, -1)
    return np.take_along_axis(keys_QK, np.lexsort((keys_QK, distance_QK)), axis=1)
