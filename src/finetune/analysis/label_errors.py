"""Data that the tuned model contradicts: documents that are probably right though nothing says so, and wrong labels.

The rules are those of confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125): a
label is doubted where the model is as sure of another one as it is, on average, of what carries that other label.

Q queries, S hits, R right documents of a query, N items, C classes, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize

NEIGHBOURS = 10
_NOISE = 95  # percentile of what random pairs score
_FEWEST = 20  # pairs from which on averages and percentiles say something

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedHits:
    """What a model found of Q queries; items are row numbers, -1 (a score of NaN) where there is none.

    `hits (Q, S)`, best first, `scores (Q, S)`, `is_right (Q, S)` what the data calls right; `right (Q, R)` the right
    documents and `right_scores (Q, R)`. `noise` are the scores of random pairs.
    """

    queries: Ints
    hits: Ints
    scores: Floats
    is_right: NDArray[np.bool_]
    right: Ints
    right_scores: Floats
    noise: Floats


@dataclass(frozen=True)
class SuspectPair:
    """A pair in doubt: the query, the document, its score, and the right document that it is held against, with its."""

    query: int
    document: int
    score: float
    positive: int
    positive_score: float


def false_negatives(ranked: RankedHits) -> list[SuspectPair]:
    """Return documents that nothing calls right and that probably are, the surest first.

    Such a document scores at least as high as right documents which are found first do on average (the threshold of
    confident learning, without what the model gets wrong), and higher than its query's best right document: where
    NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831) takes no negative from, as it would be a false
    one.
    """
    found_first = ranked.scores[:, 0][ranked.is_right[:, 0]]
    if len(found_first) < _FEWEST:
        return []
    right_QR = np.where(np.isfinite(ranked.right_scores), ranked.right_scores, -np.inf)
    best_Q, place_Q = right_QR.max(1), right_QR.argmax(1)
    found = ~ranked.is_right & (ranked.hits >= 0) & np.isfinite(best_Q)[:, None]
    found &= (ranked.scores >= found_first.mean()) & (ranked.scores > best_Q[:, None])
    query, hit = np.nonzero(found)
    order = np.argsort(-(ranked.scores[query, hit] - best_Q[query]), kind="stable")
    return [
        _doubt(ranked, q, int(ranked.hits[q, h]), float(ranked.scores[q, h]), int(place_Q[q]))
        for q, h in zip(query[order], hit[order], strict=True)
    ]


def wrong_pairs(ranked: RankedHits) -> list[SuspectPair]:
    """Return pairs that are called right and probably are not, the least similar first.

    The right document of such a pair is not among the hits, and scores no higher than the 95th percentile of random
    pairs: the model, which was trained to tell it from those, cannot. `document` is the best hit instead.
    """
    if len(ranked.noise) < _FEWEST:
        return []
    is_there_QS = ranked.hits >= 0  # where a query finds itself there is no hit
    best_Q = is_there_QS.argmax(1)
    hidden = ~(ranked.right[:, :, None] == ranked.hits[:, None, :]).any(2) & is_there_QS.any(1, keepdims=True)
    found = hidden & (ranked.right >= 0) & (ranked.right_scores <= np.percentile(ranked.noise, _NOISE))
    query, place = np.nonzero(found)
    order = np.argsort(ranked.right_scores[query, place], kind="stable")
    return [
        _doubt(ranked, q, int(ranked.hits[q, best_Q[q]]), float(ranked.scores[q, best_Q[q]]), int(r))
        for q, r in zip(query[order], place[order], strict=True)
    ]


def _doubt(ranked: RankedHits, query: int, document: int, score: float, place: int) -> SuspectPair:
    positive, its_score = int(ranked.right[query, place]), float(ranked.right_scores[query, place])
    return SuspectPair(int(ranked.queries[query]), document, score, positive, its_score)


@dataclass(frozen=True)
class WrongLabel:
    """An item by its place, its class, the class that its neighbours have, and the shares of both among these."""

    place: int
    label: int
    told: int
    share: float
    told_share: float


def wrong_labels(emb_ND: NDArray[np.float32], label_N: Ints) -> list[WrongLabel]:
    """Return items whose class is probably another one, the surest first.

    An item's probability of a class is the share that the class has of its ten nearest neighbours, itself left out. It
    is doubted where that of another class is at least the average of the items which carry that class, but for one
    neighbour, and its own is below the average of its own: what is off the diagonal of the confident joint.
    """
    classes, label_N = np.unique(label_N, return_inverse=True)
    if len(classes) < 2 or len(label_N) < _FEWEST:
        return []
    share_NC = _neighbour_shares(normalize(emb_ND), label_N, len(classes))
    own_N = share_NC[np.arange(len(label_N)), label_N]
    least_C = np.bincount(label_N, own_N) / np.bincount(label_N)
    # Averages are high where classes are clear, and shares come in tenths: one stray neighbour would hide a mistake.
    sure_NC = np.where((share_NC >= least_C - 1 / NEIGHBOURS) & (share_NC > own_N[:, None]), share_NC, 0.0)
    told_N = sure_NC.argmax(1)
    told_share_N = sure_NC[np.arange(len(label_N)), told_N]
    found = np.flatnonzero((told_share_N > 0) & (own_N < least_C[label_N]))
    order = np.argsort(own_N[found] - told_share_N[found], kind="stable")
    return [
        WrongLabel(int(n), int(classes[label_N[n]]), int(classes[told_N[n]]), float(own_N[n]), float(told_share_N[n]))
        for n in found[order]
    ]


def _neighbour_shares(unit_ND: NDArray[np.float32], label_N: Ints, classes: int) -> Floats:
    """Return the share of each class among the nearest neighbours of each item, (N, C)."""
    _, index_Nk = top_k(unit_ND, unit_ND, NEIGHBOURS + 1)
    rows = np.arange(len(label_N))[:, None]
    # An item's equals may stand before it, and then it is not among its own neighbours.
    itself = index_Nk == rows
    itself[~itself.any(1), -1] = True
    other_Nk = index_Nk[~itself].reshape(len(label_N), -1)
    share_NC = np.zeros((len(label_N), classes))
    np.add.at(share_NC, (np.broadcast_to(rows, other_Nk.shape), label_N[other_Nk]), 1 / other_Nk.shape[1])
    return share_NC
