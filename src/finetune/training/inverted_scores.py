"""Whether the scores of the data oppose the similarities of the model before it is trained.

Scores may be distances, or numbers of classes: then training on them teaches the opposite of what is meant.
Shapes: P pairs, N items, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from finetune.console import say
from finetune.data.arrays import Ints
from finetune.data.dataset import Dataset
from finetune.data.holdout.eval_data import ScoredPairs
from finetune.encoding.collectives import Collectives
from finetune.evaluation.bootstrap import paired_change
from finetune.evaluation.pair_metrics import spearman
from finetune.evaluation.result import Floats, Result
from finetune.evaluation.truncation_quantization import normalize
from finetune.training.evaluation_runner import EvaluationRunner

_PAIRS = 500  # that are looked at where no evaluator correlates them
_RESAMPLES = 1000


def warn_of_inverted_scores(
    measure: EvaluationRunner, dataset: Dataset, before: Mapping[str, Result], together: Collectives
) -> list[str]:
    """Say where the scores oppose the model before training, and return what was said.

    `before` is what evaluators found. The data's own pairs are looked at if none of them correlated these; the
    processes of a run do so together.
    """
    shares, own = _shares_of(before), measure.takes()
    is_known = together.broadcast(any(name not in own for name in shares))
    pairs = None if is_known else _pairs_to_look_at(dataset)
    if pairs is not None:
        shares["data"] = _correlated(pairs, lambda items: measure.embeddings(items, together, "looking at the scores"))
    warnings = list(_opposed(shares, own))
    for warning in warnings:
        say(f"Warning: {warning}", style="bold yellow")
    return warnings


def _pairs_to_look_at(dataset: Dataset) -> ScoredPairs | None:
    """Return some scored pairs of the data: of those held out, else of those to train on; None if it has none."""
    pairs = dataset.pairs or _of_training(dataset)
    if pairs is None or len(pairs.score) <= _PAIRS:
        return pairs
    rows = np.sort(np.random.default_rng(0).permutation(len(pairs.score))[:_PAIRS])
    return ScoredPairs(pairs.name, pairs.left[rows], pairs.right[rows], pairs.score[rows])


def _of_training(dataset: Dataset) -> ScoredPairs | None:
    places = [place for place, layout in enumerate(dataset.layouts) if layout == "scored pairs"]
    if not places:
        return None
    rows = dataset.rows_of(places[0])
    if rows.score is None or not len(rows):
        return None
    return ScoredPairs(dataset.sources[places[0]], rows.anchor, rows.positive, rows.score[:, 0].astype(np.float64))


def _correlated(pairs: ScoredPairs, embed: Callable[[Ints], NDArray[np.float32]]) -> Floats:
    """Return the shares `(P,)` of Spearman's correlation of cosines and scores; `embed` takes items `(N,)`."""
    items_N, place = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    emb_ND, place = normalize(embed(items_N)), place.reshape(-1)
    count = len(pairs.score)
    cosine_P = (emb_ND[place[:count]] * emb_ND[place[count:]]).sum(1)
    return spearman(cosine_P, pairs.score)


def _shares_of(results: Mapping[str, Result]) -> dict[str, Floats]:
    """Return the shares of Spearman's correlation that evaluators found, by the evaluators' names."""
    found = {}
    for name, result in results.items():
        if metric := next((metric for metric in result.per_query if metric.startswith("Spearman")), None):
            found[name] = result.per_query[metric]
    return found


def _opposed(shares: Mapping[str, Floats], own: Container[str]) -> Iterator[str]:
    """Yield a sentence for each correlation whose 95 % interval is below 0; `own` evaluators have data of their own."""
    for name, share_P in shares.items():
        found = paired_change(np.zeros(len(share_P)), share_P, _RESAMPLES, seed=0)
        if found.certain and found.high < 0:
            key = f"evaluation.{name}.data" if name in own else "data"
            yield (
                f"Before any training the similarity of the pairs falls as their score rises (Spearman "
                f"{found.change:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}): the scores may be "
                f"distances or classes; reverse them, or say what each is worth in {key}.score_values."
            )
