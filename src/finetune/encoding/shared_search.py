"""The exact search of `evaluation/search.py`, computed by all processes of a run.

Shapes: Q queries, M documents, D embedding width, k cut-off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints
from finetune.encoding.collectives import Collectives
from finetune.evaluation.search import QUERIES_AT_ONCE, check_embeddings, top_k

Floats = NDArray[np.float32]


def shared_top_k(
    queries_QD: Floats | None, corpus_MD: Floats | None, k: int, collectives: Collectives
) -> tuple[Floats, Ints]:
    """Return the k best documents of every query as `top_k` does: (scores_Qk, index_Qk), in the first process only.

    All processes have to call it together: the first one with the embeddings, the others with None. Each process
    searches in the whole corpus for its share of the queries, and holds both meanwhile. The results are those of one
    process, bit by bit. Queries that are too few to be shared are searched by the first process alone.

    Raises:
        FinetuneError: as `top_k`; in the first process only, while the others wait for it.
    """
    if not _is_shared(queries_QD, collectives):
        if queries_QD is None or corpus_MD is None:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return top_k(queries_QD, corpus_MD, k, device=collectives.device)
    if queries_QD is not None and corpus_MD is not None:
        check_embeddings(queries_QD, corpus_MD)
    queries_QD, corpus_MD = collectives.broadcast_array(queries_QD), collectives.broadcast_array(corpus_MD)
    share = slice(collectives.rank, None, collectives.world)
    scores_Qk, index_Qk = top_k(queries_QD, corpus_MD, k, device=collectives.device, share=share)
    collectives.reduce_sum(scores_Qk)
    collectives.reduce_sum(index_Qk)
    return scores_Qk, index_Qk


def _is_shared(queries_QD: Floats | None, collectives: Collectives) -> bool:
    """Return whether there is work for more than one process; the first one decides."""
    return collectives.broadcast(collectives.world > 1 and queries_QD is not None and len(queries_QD) > QUERIES_AT_ONCE)
