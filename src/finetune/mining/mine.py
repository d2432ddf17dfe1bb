"""Mining: candidates of each row, without what is or may be right, and of these the negatives.

Shapes: B rows, Q distinct anchors, M documents, K candidates of a row, n negatives of a row, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from finetune.console import Bar
from finetune.data.arrays import Ints, distinct, flat_ranges
from finetune.data.items import ABSENT, Items
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.mining.choose import Candidates, Chooser
from finetune.mining.fused import Fused
from finetune.mining.judge import PairJudge
from finetune.mining.mined import Mined
from finetune.mining.retriever import Retriever
from finetune.mining.settings import BM25, Mining

_SCORES_AT_ONCE = 1 << 22  # candidates of anchors that are searched in one call
_ROW_SCORES_AT_ONCE = 1 << 20  # candidates of rows that are filtered together
_ANCHOR_UNIT = 1024  # anchors are searched in multiples of this, so that a search computes the same blocks


def documents_of(relations: Relations) -> Ints:
    """Return the item numbers of everything that is a positive or a negative in some row, ascending."""
    documents = distinct(np.concatenate([relations.positive, relations.negatives.ravel()]))
    return np.setdiff1d(documents, [ABSENT])


def rows_with_positive(relations: Relations) -> Ints:
    """Return the rows that negatives are mined for: those with an anchor and a positive that is right."""
    real = (relations.anchor != ABSENT) & (relations.positive != ABSENT)
    if relations.score is not None:
        real &= ~(relations.score[:, 0] <= 0)
    return np.flatnonzero(real)


def mine(
    relations: Relations,
    items: Items,
    known: KnownPositives,
    documents_M: Ints,
    retrievers: Sequence[Retriever],
    settings: Mining,
    seed: int,
    *,
    prompts: Sequence[str] = (),
    judge: PairJudge | None = None,
) -> Mined:
    """Return negatives for each row of `relations`, from these documents (ascending item numbers).

    Never a negative is what is known to be right for the anchor anywhere in the data, the anchor itself, or a text that
    equals one of these but for case, white space, punctuation, accents and the `prompts`. Rows without a positive
    (labelled items) and pairs with a score of zero or less get none. The result depends only on the arguments.

    Raises:
        FinetuneError: an embedding is not finite.
        RunError: the judge does not answer.
    """
    retriever, are_scores = _joined(retrievers)
    chooser = Chooser(relations, items, known, settings, seed, prompts, judge)
    rows = rows_with_positive(relations)
    rows = rows[np.argsort(relations.anchor[rows], kind="stable")]
    anchors_Q, starts_Q = np.unique(relations.anchor[rows], return_index=True)
    ends_Q = np.append(starts_Q[1:], len(rows))
    with Bar("mining negatives", len(anchors_Q), "anchors") as bar:
        for block in _blocks(len(anchors_Q), settings.last_rank):
            anchors_q = anchors_Q[block]
            hits = retriever.search(anchors_q, documents_M, settings.last_rank)
            for place in _row_blocks(ends_Q[block] - starts_Q[block], settings.last_rank):
                counts = (ends_Q[block] - starts_Q[block])[place]
                of_anchor = np.repeat(np.arange(len(anchors_q))[place], counts)
                of_block = rows[flat_ranges(starts_Q[block][place], counts)]
                positive = retriever.score(relations.anchor[of_block], relations.positive[of_block])
                found = Candidates(of_block, hits.items[of_anchor], hits.scores[of_anchor], positive)
                if not are_scores:
                    found = _scored(found, relations.anchor[of_block], retriever)
                chooser.choose(found)
                bar.update(block.start + int(place.stop))
    return chooser.mined()


def _joined(retrievers: Sequence[Retriever]) -> tuple[Retriever, bool]:
    """Return one retriever for all, and whether the scores of its hits are those that thresholds compare."""
    if len(retrievers) == 1:
        return retrievers[0], True
    models = [each for each in retrievers if each.name != BM25]
    return Fused(retrievers, [*models, *retrievers][0]), False


def _scored(found: Candidates, anchor_B: Ints, retriever: Retriever) -> Candidates:
    row, place = np.nonzero(found.items != ABSENT)
    scores = np.full(found.items.shape, -np.inf, np.float32)
    scores[row, place] = retriever.score(anchor_B[row], found.items[row, place])
    return found._replace(scores=scores)


def _blocks(anchors: int, ranks: int) -> Iterator[slice]:
    step = max(1, _SCORES_AT_ONCE // (ranks * _ANCHOR_UNIT)) * _ANCHOR_UNIT
    for start in range(0, anchors, step):
        yield slice(start, min(start + step, anchors))


def _row_blocks(counts_Q: Ints, ranks: int) -> Iterator[slice]:
    """Yield slices of anchors that have so many rows together that their candidates fit in memory, or one anchor."""
    most = max(1, _ROW_SCORES_AT_ONCE // ranks)
    before_Q = np.append(0, np.cumsum(counts_Q))
    start = 0
    while start < len(counts_Q):
        stop = int(np.searchsorted(before_Q, before_Q[start] + most, side="right")) - 1
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop
