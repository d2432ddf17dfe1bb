"""Mining: candidates of each row, without what is or may be right, and of these the negatives.

Shapes: B rows, Q distinct anchors, M documents, K candidates, n negatives of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.arrays import Ints, distinct
from finetune.data.items import ABSENT, Items
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.mining.mined import Mined
from finetune.mining.retriever import Retriever
from finetune.mining.settings import Mining


def documents_of(relations: Relations) -> Ints:
    """Return the item numbers of everything that is a positive or a negative in some row, ascending."""
    documents = distinct(np.concatenate([relations.positive, relations.negatives.ravel()]))
    return np.setdiff1d(documents, [ABSENT])


def mine(
    relations: Relations,
    items: Items,
    known: KnownPositives,
    documents_M: Ints,
    retrievers: Sequence[Retriever],
    settings: Mining,
    seed: int,
) -> Mined:
    """Return negatives for each row of `relations`, from these documents (ascending item numbers).

    Rows without a positive (labelled items) and pairs with a score of zero or less get none. The result depends only on
    the arguments.

    Raises:
        FinetuneError: an embedding is not finite.
        RunError: the judge does not answer.
    """
    del items, seed
    anchors, row_anchor = np.unique(relations.anchor, return_inverse=True)
    hits = retrievers[0].search(anchors, documents_M, settings.last_rank)
    found = hits.items[row_anchor]
    negatives = np.full((len(relations), settings.count), ABSENT)
    for row, candidates in enumerate(found):
        right = known.of(relations.anchor[row : row + 1])[1]
        left = candidates[~np.isin(candidates, [*right, relations.anchor[row], ABSENT])]
        left = left[settings.first_rank - 1 :][: settings.count]
        negatives[row, : len(left)] = left
    scores = np.full((len(relations), 1 + settings.count), np.nan, np.float32)
    return Mined(negatives, scores)
