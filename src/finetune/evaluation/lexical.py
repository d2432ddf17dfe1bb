"""BM25: what a search finds that knows words only, so that people see whether they need a model at all.

Shapes: Q queries, K hits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np

from finetune.errors import CheckFailed, Problem
from finetune.evaluation.result import Ints

EXTRA = "Install it: pip install 'finetune[bm25]'."


def is_here() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("bm25s") is not None


def bm25(queries: Sequence[str], corpus: Sequence[str], depth: int) -> Ints:
    """The `depth` best documents of each query `(Q, K)`, best first; -1 where no more share a word with it.

    Lucene's variant with its k1=1.5 and b=0.75, words in lower case, no stemming, no stop words
    (Lù 2024, https://arxiv.org/abs/2407.03618).

    Raises:
        CheckFailed: the package is not installed.
    """
    if not is_here():
        raise CheckFailed([Problem("evaluation", "BM25 needs the package bm25s.", EXTRA)])
    import bm25s

    index = bm25s.BM25(method="lucene")
    quiet = {"show_progress": False}
    index.index(bm25s.tokenize(list(corpus), stopwords=None, **quiet), **quiet)
    asked = bm25s.tokenize(list(queries), stopwords=None, return_ids=False, **quiet)
    found, scores = index.retrieve(asked, k=min(depth, len(corpus)), **quiet)
    return np.where(scores > 0, found, -1).astype(np.int64)
