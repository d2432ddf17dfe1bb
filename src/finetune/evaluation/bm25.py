"""BM25, a search by words, as a baseline that needs no model.

Shapes: Q queries, K hits.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence

import numpy as np

from finetune.errors import CheckFailed, Problem
from finetune.evaluation.result import Ints

EXTRA = "Install it: pip install 'finetune[bm25]'."


def is_installed() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("bm25s") is not None


def bm25(queries: Sequence[str], corpus: Sequence[str], depth: int) -> Ints:
    """Return the `depth` best documents of each query `(Q, K)`, best first; -1 for documents sharing no word with it.

    Lucene's variant with k1=1.5 and b=0.75, words in lower case, no stemming, no stop words
    (Lù 2024, https://arxiv.org/abs/2407.03618).

    Raises:
        CheckFailed: the package is not installed.
    """
    if not is_installed():
        raise CheckFailed([Problem("evaluation", "BM25 needs the package bm25s.", EXTRA)])
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each step of building an index
    index = bm25s.BM25(method="lucene")
    quiet = {"show_progress": False}
    words = {"stopwords": None, "token_pattern": r"(?u)\b\w+\b", **quiet}
    index.index(bm25s.tokenize(list(corpus), **words), **quiet)
    query_words = bm25s.tokenize(list(queries), return_ids=False, **words)
    hits_QK, score_QK = index.retrieve(query_words, k=min(depth, len(corpus)), **quiet)
    # bm25s returns equal scores in any order; they are sorted by index here, but which ones it cuts off is arbitrary.
    order_QK = np.lexsort((hits_QK, -score_QK))
    hits_QK = np.where(score_QK > 0, hits_QK, -1).astype(np.int64)
    return np.take_along_axis(hits_QK, order_QK, axis=1)
