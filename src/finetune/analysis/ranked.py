"""What a model found, made ready for `doubts.py`: of a search that was evaluated, and of a sample of training pairs.

Q queries, M documents, P pairs, S hits.
"""

from __future__ import annotations

import numpy as np

from finetune.analysis.label_errors import Floats, RankedHits
from finetune.analysis.sample import HeldOutSample, are_known_positives
from finetune.analysis.similarities import EmbedItems
from finetune.data.arrays import Ints, distinct
from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT
from finetune.evaluation.retrieval import RetrievalResult
from finetune.evaluation.retrieval_task import SHOWN
from finetune.evaluation.search import top_k


def hits_of_search(result: RetrievalResult, sample: HeldOutSample, look: EmbedItems) -> RankedHits:
    """Return what a search among the held-out documents found; `sample` brings its random pairs."""
    noise_P = _products(sample.wrong[:, 0], sample.wrong[:, 1], look)
    right_QS = np.where(np.isnan(result.right_scores), ABSENT, result.right)
    is_right = result.gains > 0
    return RankedHits(result.queries, result.hits, result.scores, is_right, right_QS, result.right_scores, noise_P)


def hits_of_training(dataset: Dataset, rows: Ints, look: EmbedItems) -> RankedHits:
    """Return what is found if the anchors of these training pairs search among their positives and negatives.

    Each pair is a query of its own, with its positive as the right document.
    """
    train = dataset.train
    anchor_P, positive_P = train.anchor[rows], train.positive[rows]
    documents = distinct(np.concatenate([positive_P, train.negatives[rows].ravel()]))
    documents = documents[documents != ABSENT]
    score_PS, place_PS = top_k(look(anchor_P), look(documents), SHOWN)
    hits_PS = documents[place_PS]
    itself = hits_PS == anchor_P[:, None]
    known = are_known_positives(dataset, np.repeat(anchor_P, hits_PS.shape[1]), hits_PS.ravel()).reshape(hits_PS.shape)
    return RankedHits(
        anchor_P,
        np.where(itself, ABSENT, hits_PS),
        np.where(itself, np.nan, score_PS),
        known | (hits_PS == positive_P[:, None]),
        positive_P[:, None],
        _products(anchor_P, positive_P, look)[:, None],
        _random_scores(dataset, anchor_P, documents, look),
    )


def _random_scores(dataset: Dataset, anchor_P: Ints, documents: Ints, look: EmbedItems) -> Floats:
    """Return the scores of each anchor with a document that is drawn, but for those that belong together."""
    drawn_P = documents[np.random.default_rng(1).integers(0, len(documents), len(anchor_P))]
    wrong = (drawn_P != anchor_P) & ~are_known_positives(dataset, anchor_P, drawn_P)
    return _products(anchor_P[wrong], drawn_P[wrong], look)


def _products(left_P: Ints, right_P: Ints, look: EmbedItems) -> Floats:
    score_P: Floats = np.einsum("pd,pd->p", look(left_P).astype(np.float64), look(right_P).astype(np.float64))
    return score_P
