"""Agreement of the similarities of embeddings with the scores of pairs, and classification of pairs by similarity.

Shapes: P pairs, N items, D width.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.config.types import Built, NotEmpty, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Embed, Evaluator, Search, Texts, check_finite, sample_rows
from finetune.evaluation.metric_values import ArrayInputs, measure, named_metrics
from finetune.evaluation.result import Floats, Ints, Result
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize
from finetune.metrics import AveragePrecision, BestAccuracy, BestF1, Pearson, Spearman, ThresholdMetric

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import ScoredPairs

Kind = Literal["cosine", "dot", "euclidean"]


class Similarity(Evaluator):
    """Spearman's and Pearson's correlation of scores and similarities; the arguments are documented in their config."""

    evaluates: ClassVar[str] = "scored pairs"
    metric_names: ClassVar[tuple[str, ...]] = ("Spearman", "Pearson")
    metric_inputs: ClassVar[tuple[str, ...]] = ("preds", "target")
    metric_package: ClassVar[str] = "torchmetrics.regression"

    def __init__(
        self,
        correlations: Annotated[list[Literal["Spearman", "Pearson"]], NotEmpty()],
        metrics: list[str | Built],
        similarities: Annotated[list[Literal["cosine", "dot", "euclidean"]], NotEmpty()],
        pairs: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.metrics = named_metrics([*correlations, *metrics], [Spearman, Pearson], _example(np.float64))
        self.similarities = similarities
        self.pairs = pairs

    def evaluate(
        self, eval_data: ScoredPairs, embed: Embed, texts: Texts | None = None, search: Search = top_k
    ) -> Result:
        """Correlate the similarities of all pairs with their scores.

        Raises:
            FinetuneError: there are fewer than two scores, all scores are equal, or an embedding is not finite.
        """
        start = time.monotonic()
        rows = sample_rows(len(eval_data.score), self.pairs)
        left_P, right_P, score_P = eval_data.left[rows], eval_data.right[rows], eval_data.score[rows]
        if len(rows) < 2 or np.ptp(score_P) == 0:
            what = f"{eval_data.name}: all scores are the same, so there is nothing to correlate with."
            raise FinetuneError(what, "Give pairs of different scores.")
        per_pair = {}
        for kind, similarity_P in _similarities(left_P, right_P, embed, self.similarities).items():
            inputs = ArrayInputs({"preds": similarity_P, "target": score_P})
            for name, values_P in measure(self.metrics, inputs).items():
                per_pair[f"{name} {kind}"] = values_P
        return _result(eval_data, np.column_stack([left_P, right_P]), per_pair, start, self.bootstrap_samples, {})


class PairClassification(Evaluator):
    """Classification of right and wrong pairs by similarity; the arguments are documented in their config file."""

    evaluates: ClassVar[str] = "scored pairs"
    metric_names: ClassVar[tuple[str, ...]] = ("AP", "F1", "accuracy")
    metric_inputs: ClassVar[tuple[str, ...]] = ("preds", "target")
    metric_package: ClassVar[str] = "torchmetrics.classification"

    def __init__(
        self,
        metrics: Annotated[list[str | Built], NotEmpty()],
        right_from: float | None,
        similarities: Annotated[list[Literal["cosine", "dot", "euclidean"]], NotEmpty()],
        pairs: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.metrics = named_metrics(metrics, [AveragePrecision, BestF1, BestAccuracy], _example(np.int64))
        self.right_from = right_from
        self.similarities = similarities
        self.pairs = pairs

    def evaluate(
        self, eval_data: ScoredPairs, embed: Embed, texts: Texts | None = None, search: Search = top_k
    ) -> Result:
        """Compute the metrics of each similarity.

        Raises:
            FinetuneError: it is undefined which pairs are right, all or none are, or an embedding is not finite.
        """
        start = time.monotonic()
        rows = sample_rows(len(eval_data.score), self.pairs)
        left_P, right_P = eval_data.left[rows], eval_data.right[rows]
        is_right_P = self._right(eval_data.score[rows], eval_data.name)
        per_pair, notes = {}, []
        for kind, similar_P in _similarities(left_P, right_P, embed, self.similarities).items():
            inputs = ArrayInputs({"preds": similar_P, "target": is_right_P.astype(np.int64)})
            for name, values_P in measure(self.metrics, inputs).items():
                per_pair[f"{name} {kind}"] = values_P
                metric = self.metrics[name]
                if isinstance(metric, ThresholdMetric):
                    what = f"pairs of at least {metric.threshold():.4g} count as right."
                    notes.append(f"{name} {kind}: {what}")
        counts = {"right pairs": int(is_right_P.sum())}
        pairs_P2 = np.column_stack([left_P, right_P])
        return _result(eval_data, pairs_P2, per_pair, start, self.bootstrap_samples, counts, notes)

    def _right(self, score_P: Floats, name: str) -> NDArray[np.bool_]:
        """Return which pairs are right: those of at least the score `right_from`, or of the higher of two scores."""
        threshold = self.right_from
        if threshold is None:
            values = np.unique(score_P)
            if len(values) > 2:
                what = f"{name}: there are {len(values):,} different scores, so it is undefined which pairs are right."
                raise FinetuneError(what, "Set the lowest score of right pairs: right_from=0.5")
            threshold = float(values[-1])
        right_P: NDArray[np.bool_] = score_P >= threshold
        if right_P.all() or not right_P.any():
            how_many = "all" if right_P.all() else "none"
            what = f"{name}: {how_many} of the {len(score_P):,} pairs are right."
            raise FinetuneError(what, "Give right and wrong pairs, or another right_from.")
        return right_P


def _similarities(left_P: Ints, right_P: Ints, embed: Embed, kinds: list[Kind]) -> dict[Kind, Floats]:
    """Return the similarities of all pairs `(P,)` by name; distances are negated, so that higher is more similar."""
    items_N, place = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
    emb_ND = check_finite(embed(items_N))
    place = place.reshape(-1)
    similarities: dict[Kind, Floats] = {}
    for kind in kinds:
        base_ND = normalize(emb_ND) if kind == "cosine" else emb_ND
        left_PD = base_ND[place[: len(left_P)]].astype(np.float64)
        right_PD = base_ND[place[len(left_P) :]].astype(np.float64)
        if kind == "euclidean":
            similarities[kind] = -np.linalg.norm(left_PD - right_PD, axis=1)
        else:
            similarities[kind] = (left_PD * right_PD).sum(1)
    return similarities


def _example(kind: type) -> ArrayInputs:
    """Return a few similarities, and scores or classes `(P,)`, with which metrics are tried."""
    preds_P, target_P = np.array([0.1, 0.7, 0.4, 0.9, 0.2]), np.array([0, 1, 0, 1, 1])
    return ArrayInputs({"preds": preds_P, "target": target_P.astype(kind)})


def _result(
    eval_data: ScoredPairs,
    pairs_P2: Ints,
    per_pair: dict[str, Floats],
    start: float,
    samples: int,
    counts: dict[str, int],
    notes: list[str] | None = None,
) -> Result:
    return Result(
        name=eval_data.name,
        headline=next(iter(per_pair)),
        per_query=per_pair,
        queries=pairs_P2,
        counts={"scored pairs": len(pairs_P2), **counts},
        bootstrap_samples=samples,
        seconds=time.monotonic() - start,
        notes=notes or [],
    )
