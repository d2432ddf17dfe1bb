"""BM25: what a search finds that knows words only, so that people see whether they need a model at all.

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
    """The `depth` best documents of each query `(Q, K)`, best first; -1 where no more share a word with it.

    Lucene's variant with its k1=1.5 and b=0.75, words in lower case, no stemming, no stop words
    (Lù 2024, https://arxiv.org/abs/2407.03618).

    Raises:
        CheckFailed: the package is not installed.
    """
    if not is_installed():
        raise CheckFailed([Problem("evaluation", "BM25 needs the package bm25s.", EXTRA)])
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells each step of an index, into the run's log
    index = bm25s.BM25(method="lucene")
    quiet = {"show_progress": False}
    words = {"stopwords": None, "token_pattern": r"(?u)\b\w+\b", **quiet}
    index.index(bm25s.tokenize(list(corpus), **words), **quiet)
    asked = bm25s.tokenize(list(queries), return_ids=False, **words)
    found_QK, score_QK = index.retrieve(asked, k=min(depth, len(corpus)), **quiet)
    # Of equal scores it keeps any at the cut, in any order; that they come by their place is all that can be had.
    order_QK = np.lexsort((found_QK, -score_QK))
    found_QK = np.where(score_QK > 0, found_QK, -1).astype(np.int64)
    return np.take_along_axis(found_QK, order_QK, axis=1)
