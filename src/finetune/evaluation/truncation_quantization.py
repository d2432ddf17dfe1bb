"""Truncated and quantized embeddings: what a smaller index would find.

Shapes: Q queries, M documents, D width, d of them that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import FinetuneError

Floats = NDArray[np.float32]
Precision = Literal["int8", "binary"]


def variants(
    queries_QD: Floats, corpus_MD: Floats, dimensions: Sequence[int], precisions: Sequence[Precision]
) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield name, queries and corpus of each variant: truncated to the first dimensions, quantized, and both.

    Truncated embeddings are normalized again if the full ones have unit length (Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147).

    Raises:
        FinetuneError: the embeddings have fewer dimensions.
    """
    width = queries_QD.shape[1]
    if max(dimensions, default=0) > width:
        raise FinetuneError(
            f"the model's embeddings have {width} dimensions, and {max(dimensions)} are to be measured.",
            "Leave the larger ones out of dimensions.",
        )
    for kept, precision in product([None, *dimensions], [None, *precisions]):
        if kept is None and precision is None:
            continue
        words = [str(word) for word in (kept, precision) if word is not None]
        queries_Qd, corpus_Md = _truncate(queries_QD, corpus_MD, kept)
        yield ", ".join(words), *_quantize(queries_Qd, corpus_Md, precision)


def _truncate(queries_QD: Floats, corpus_MD: Floats, kept: int | None) -> tuple[Floats, Floats]:
    if kept is None:
        return queries_QD, corpus_MD
    if all(np.allclose(np.linalg.norm(emb, axis=1), 1, atol=1e-3) for emb in (queries_QD, corpus_MD)):
        return normalize(queries_QD[:, :kept]), normalize(corpus_MD[:, :kept])
    return queries_QD[:, :kept], corpus_MD[:, :kept]


def _quantize(queries_Qd: Floats, corpus_Md: Floats, precision: Precision | None) -> tuple[Floats, Floats]:
    """Return queries and corpus with the values that an index of this precision stores.

    `int8`: each dimension of the documents in 255 steps of a size of its own, the queries unchanged. `binary`: the
    signs of both, so that their product is the width minus twice the Hamming distance.
    """
    if precision == "int8":
        step_d = np.maximum(np.abs(corpus_Md).max(axis=0), np.finfo(np.float32).tiny) / 127
        stored_Md: Floats = np.rint(corpus_Md / step_d) * step_d
        return queries_Qd, stored_Md
    if precision == "binary":
        return _signs(queries_Qd), _signs(corpus_Md)
    return queries_Qd, corpus_Md


def _signs(emb_Nd: Floats) -> Floats:
    signs: Floats = np.where(emb_Nd > 0, np.float32(1), np.float32(-1))
    return signs


def normalize(emb_Nd: Floats) -> Floats:
    """Return the embeddings scaled to unit length; those of length 0 stay 0."""
    length_N1 = np.linalg.norm(emb_Nd, axis=1, keepdims=True)
    unit_Nd: Floats = np.divide(emb_Nd, length_N1, out=np.zeros_like(emb_Nd), where=length_N1 > 0)
    return unit_Nd
