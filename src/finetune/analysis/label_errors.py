"""Data that the tuned model contradicts: likely false negatives, likely wrong pairs and likely wrong labels.

The rules are those of confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125): a
label is suspect if the model is as confident in another label as it is, on average, for items with that other label.

Q queries, S hits, R right documents of a query, P pairs, N items, C classes, k neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.analysis.sample import HeldOutSample, are_known_positives
from finetune.analysis.similarities import EmbedItems
from finetune.data.arrays import Ints, distinct
from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT
from finetune.evaluation.retrieval import RetrievalResult
from finetune.evaluation.retrieval_task import SHOWN
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize

NEIGHBORS = 10
_NOISE = 95  # percentile of the scores of random pairs
_FEWEST = 20  # pairs that averages and percentiles need to be meaningful

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedHits:
    """The hits of a model for Q queries; items are row numbers, -1 (with a score of NaN) for none.

    `hits (Q, S)` best first, `scores (Q, S)`, `is_right (Q, S)` whether the data marks them right; `right (Q, R)` the
    right documents and `right_scores (Q, R)`. `noise` are the scores of random pairs.
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
    """A suspect pair: query, document and score, and the right document it is compared with and its score."""

    query: int
    document: int
    score: float
    positive: int
    positive_score: float


def false_negatives(ranked: RankedHits) -> list[SuspectPair]:
    """Return documents that are not marked right but likely are, the most certain first.

    Such a document scores at least as high as the average right document at rank 1 (the threshold of confident
    learning, restricted to correct predictions), and higher than the best right document of its query: NV-Retriever
    (Moreira et al. 2024, https://arxiv.org/abs/2407.15831) excludes such documents as likely false negatives.
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
        _suspect_pair(ranked, q, int(ranked.hits[q, h]), float(ranked.scores[q, h]), int(place_Q[q]))
        for q, h in zip(query[order], hit[order], strict=True)
    ]


def wrong_pairs(ranked: RankedHits) -> list[SuspectPair]:
    """Return pairs that are marked right but likely are not, the least similar first.

    The right document of such a pair is not among the hits, and scores no higher than the 95th percentile of random
    pairs, although the model was trained to score it higher. `document` is the best hit instead.
    """
    if len(ranked.noise) < _FEWEST:
        return []
    is_hit_QS = ranked.hits >= 0  # a query itself is no hit
    best_Q = is_hit_QS.argmax(1)
    missed = ~(ranked.right[:, :, None] == ranked.hits[:, None, :]).any(2) & is_hit_QS.any(1, keepdims=True)
    found = missed & (ranked.right >= 0) & (ranked.right_scores <= np.percentile(ranked.noise, _NOISE))
    query, place = np.nonzero(found)
    order = np.argsort(ranked.right_scores[query, place], kind="stable")
    return [
        _suspect_pair(ranked, q, int(ranked.hits[q, best_Q[q]]), float(ranked.scores[q, best_Q[q]]), int(r))
        for q, r in zip(query[order], place[order], strict=True)
    ]


def _suspect_pair(ranked: RankedHits, query: int, document: int, score: float, place: int) -> SuspectPair:
    positive, positive_score = int(ranked.right[query, place]), float(ranked.right_scores[query, place])
    return SuspectPair(int(ranked.queries[query]), document, score, positive, positive_score)


@dataclass(frozen=True)
class WrongLabel:
    """An item by its place, its class, the class suggested by its neighbors, and the fractions of both among these."""

    place: int
    label: int
    suggested: int
    share: float
    suggested_share: float


def wrong_labels(emb_ND: NDArray[np.float32], label_N: Ints) -> list[WrongLabel]:
    """Return items whose class is likely wrong, the most certain first.

    An item's probability of a class is the fraction of its ten nearest neighbors, without itself, that have the class.
    Its label is suspect if the probability of another class is at least the average over the items of that class, minus
    one neighbor, and that of its own class is below the average over its class (off the diagonal of the confident
    joint).
    """
    classes, label_N = np.unique(label_N, return_inverse=True)
    if len(classes) < 2 or len(label_N) < _FEWEST:
        return []
    share_NC = _neighbor_fractions(normalize(emb_ND), label_N, len(classes))
    own_N = share_NC[np.arange(len(label_N)), label_N]
    least_C = np.bincount(label_N, own_N) / np.bincount(label_N)
    # Minus one neighbor: averages are near 1 for well-separated classes, and probabilities are multiples of 0.1.
    sure_NC = np.where((share_NC >= least_C - 1 / NEIGHBORS) & (share_NC > own_N[:, None]), share_NC, 0.0)
    suggested_N = sure_NC.argmax(1)
    suggested_share_N = sure_NC[np.arange(len(label_N)), suggested_N]
    found = np.flatnonzero((suggested_share_N > 0) & (own_N < least_C[label_N]))
    order = np.argsort(own_N[found] - suggested_share_N[found], kind="stable")
    return [
        WrongLabel(
            int(n), int(classes[label_N[n]]), int(classes[suggested_N[n]]), float(own_N[n]), float(suggested_share_N[n])
        )
        for n in found[order]
    ]


def _neighbor_fractions(unit_ND: NDArray[np.float32], label_N: Ints, classes: int) -> Floats:
    """Return the fraction of each class among the nearest neighbors of each item, (N, C)."""
    _, index_Nk = top_k(unit_ND, unit_ND, NEIGHBORS + 1)
    rows = np.arange(len(label_N))[:, None]
    # Items with equal embeddings may rank before the item itself, which is then missing: drop the last neighbor.
    itself = index_Nk == rows
    itself[~itself.any(1), -1] = True
    other_Nk = index_Nk[~itself].reshape(len(label_N), -1)
    share_NC = np.zeros((len(label_N), classes))
    np.add.at(share_NC, (np.broadcast_to(rows, other_Nk.shape), label_N[other_Nk]), 1 / other_Nk.shape[1])
    return share_NC


def hits_of_search(result: RetrievalResult, sample: HeldOutSample, embed: EmbedItems) -> RankedHits:
    """Return the hits of a retrieval evaluation; the random pairs are the wrong pairs of `sample`."""
    noise_P = _dot_products(sample.wrong[:, 0], sample.wrong[:, 1], embed)
    right_QS = np.where(np.isnan(result.right_scores), ABSENT, result.right)
    is_right = result.gains > 0
    return RankedHits(result.queries, result.hits, result.scores, is_right, right_QS, result.right_scores, noise_P)


def hits_of_training(dataset: Dataset, rows: Ints, embed: EmbedItems) -> RankedHits:
    """Return the hits of the anchors of these training pairs, among the positives and negatives of all of them.

    Each pair is a separate query, with its positive as the right document.
    """
    train = dataset.train
    anchor_P, positive_P = train.anchor[rows], train.positive[rows]
    documents = distinct(np.concatenate([positive_P, train.negatives[rows].ravel()]))
    documents = documents[documents != ABSENT]
    score_PS, place_PS = top_k(embed(anchor_P), embed(documents), SHOWN)
    hits_PS = documents[place_PS]
    itself = hits_PS == anchor_P[:, None]
    known = are_known_positives(dataset, np.repeat(anchor_P, hits_PS.shape[1]), hits_PS.ravel()).reshape(hits_PS.shape)
    return RankedHits(
        anchor_P,
        np.where(itself, ABSENT, hits_PS),
        np.where(itself, np.nan, score_PS),
        known | (hits_PS == positive_P[:, None]),
        positive_P[:, None],
        _dot_products(anchor_P, positive_P, embed)[:, None],
        _random_scores(dataset, anchor_P, documents, embed),
    )


def _random_scores(dataset: Dataset, anchor_P: Ints, documents: Ints, embed: EmbedItems) -> Floats:
    """Return the scores of each anchor with a random document, without known positives."""
    drawn_P = documents[np.random.default_rng(1).integers(0, len(documents), len(anchor_P))]
    wrong = (drawn_P != anchor_P) & ~are_known_positives(dataset, anchor_P, drawn_P)
    return _dot_products(anchor_P[wrong], drawn_P[wrong], embed)


def _dot_products(left_P: Ints, right_P: Ints, embed: EmbedItems) -> Floats:
    score_P: Floats = np.einsum("pd,pd->p", embed(left_P).astype(np.float64), embed(right_P).astype(np.float64))
    return score_P
