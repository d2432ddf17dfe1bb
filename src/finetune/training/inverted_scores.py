"""A warning if the scores of the data contradict the similarities of the untrained model.

Scores may be distances, or numbers of classes: then training on them teaches the opposite of what is intended.
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
from finetune.evaluation.result import Floats, Result
from finetune.evaluation.truncation_quantization import normalize
from finetune.metrics import Spearman
from finetune.training.evaluation_runner import EvaluationRunner

_MAX_PAIRS = 500  # correlated if no evaluator does so
_RESAMPLES = 1000


def warn_of_inverted_scores(
    runner: EvaluationRunner, dataset: Dataset, before: Mapping[str, Result], collectives: Collectives
) -> list[str]:
    """Print a warning for each correlation of scores and similarities that is negative, and return the warnings.

    `before` are the results of the untrained model. If no evaluator correlated the pairs of the run, some of them are
    embedded for it, by all processes together.
    """
    correlations, own = _correlations(before), runner.own_texts()
    is_known = collectives.broadcast(any(name not in own for name in correlations))
    pairs = None if is_known else _sample_pairs(dataset)
    if pairs is not None:

        def embed(items: Ints) -> NDArray[np.float32]:
            return runner.embeddings(items, collectives, "looking at the scores")

        correlations["data"] = _correlate(pairs, embed)
    warnings = list(_warnings(correlations, own))
    for warning in warnings:
        say(f"Warning: {warning}", style="bold yellow")
    return warnings


def _sample_pairs(dataset: Dataset) -> ScoredPairs | None:
    """Return some of the held-out scored pairs, or else of those to train on; None if the data has none."""
    pairs = dataset.pairs or _training_pairs(dataset)
    if pairs is None or len(pairs.score) <= _MAX_PAIRS:
        return pairs
    rows = np.sort(np.random.default_rng(0).permutation(len(pairs.score))[:_MAX_PAIRS])
    return ScoredPairs(pairs.name, pairs.left[rows], pairs.right[rows], pairs.score[rows])


def _training_pairs(dataset: Dataset) -> ScoredPairs | None:
    """Return the training pairs of the first source with scores."""
    scored = [number for number, layout in enumerate(dataset.layouts) if layout == "scored pairs"]
    if not scored:
        return None
    rows = dataset.rows_of(scored[0])
    if rows.score is None or not len(rows):
        return None
    return ScoredPairs(dataset.sources[scored[0]], rows.anchor, rows.positive, rows.score[:, 0].astype(np.float64))


def _correlate(pairs: ScoredPairs, embed: Callable[[Ints], NDArray[np.float32]]) -> Floats:
    """Return the terms `(P,)` of Spearman's correlation of cosines and scores; `embed` takes items `(N,)`."""
    items_N, row = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    emb_ND, row = normalize(embed(items_N)), row.reshape(-1)
    count = len(pairs.score)
    cosine_P = (emb_ND[row[:count]] * emb_ND[row[count:]]).sum(1)
    spearman = Spearman(sync_on_compute=False)  # only the first process has the embeddings
    spearman.update(cosine_P, pairs.score)
    return spearman.per_case().numpy()


def _correlations(results: Mapping[str, Result]) -> dict[str, Floats]:
    """Return the terms of the first Spearman correlation of each evaluator that has one, by its name."""
    by_evaluator: dict[str, Floats] = {}
    for name, result in results.items():
        for metric, terms in result.per_query.items():
            if metric.startswith("Spearman ") and name not in by_evaluator:
                by_evaluator[name] = terms
    return by_evaluator


def _warnings(correlations: Mapping[str, Floats], own: Container[str]) -> Iterator[str]:
    """Yield a sentence for each correlation whose 95 % interval is below 0; `own` evaluators have data of their own."""
    for name, terms_P in correlations.items():
        rho = paired_change(np.zeros(len(terms_P)), terms_P, _RESAMPLES, seed=0)
        if rho.certain and rho.high < 0:
            key = f"evaluation.{name}.data" if name in own else "data"
            yield (
                f"Before any training the similarity of the pairs falls as their score rises (Spearman "
                f"{rho.change:+.3f}, 95 % interval {rho.low:+.3f} to {rho.high:+.3f}): the scores may be "
                f"distances or classes; reverse them, or say what each is worth in {key}.score_values."
            )
