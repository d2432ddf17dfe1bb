"""How well the similarity of embeddings goes with the scores of pairs.

Shapes: P pairs, N items, D width.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.config.types import NotEmpty, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation import binary
from finetune.evaluation.correlation import pearson, spearman
from finetune.evaluation.evaluator import Embed, Evaluator, Texts, check_finite, sample_rows
from finetune.evaluation.result import Floats, Ints, Result
from finetune.evaluation.truncation_quantization import normalize

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import ScoredPairs

Kind = Literal["cosine", "dot", "euclidean"]


class Similarity(Evaluator):
    """Spearman's and Pearson's correlation of scores and similarities; the arguments are explained in their config."""

    evaluates: ClassVar[str] = "scored pairs"

    def __init__(
        self,
        correlations: Annotated[list[Literal["Spearman", "Pearson"]], NotEmpty()],
        similarities: Annotated[list[Literal["cosine", "dot", "euclidean"]], NotEmpty()],
        pairs: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.correlations = correlations
        self.similarities = similarities
        self.pairs = pairs

    def evaluate(
        self, held: ScoredPairs, embed: Embed, texts: Texts | None = None, device: torch.device | str = "cpu"
    ) -> Result:
        """Correlate the similarities of all pairs with their scores.

        Raises FinetuneError when there are fewer than two scores, all are the same, or an embedding is not finite.
        """
        start = time.monotonic()
        rows = sample_rows(len(held.score), self.pairs)
        left_P, right_P, score_P = held.left[rows], held.right[rows], held.score[rows]
        if len(rows) < 2 or np.ptp(score_P) == 0:
            what = f"{held.name}: all scores are the same, so there is nothing to correlate with."
            raise FinetuneError(what, "Give pairs of different scores.")
        found = _similarities(left_P, right_P, embed, self.similarities)
        correlate = {"Spearman": spearman, "Pearson": pearson}
        per_pair = {
            f"{name} {kind}": correlate[name](similar_P, score_P)
            for kind, similar_P in found.items()
            for name in self.correlations
        }
        return _result(held, np.column_stack([left_P, right_P]), per_pair, start, self.bootstrap_samples, {})


class PairClassification(Evaluator):
    """How well similarities tell right pairs from wrong ones; the arguments are explained in their config file."""

    evaluates: ClassVar[str] = "scored pairs"

    def __init__(
        self,
        right_from: float | None,
        similarities: Annotated[list[Literal["cosine", "dot", "euclidean"]], NotEmpty()],
        pairs: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.right_from = right_from
        self.similarities = similarities
        self.pairs = pairs

    def evaluate(
        self, held: ScoredPairs, embed: Embed, texts: Texts | None = None, device: torch.device | str = "cpu"
    ) -> Result:
        """Find average precision and best F1 of each similarity.

        Raises FinetuneError when it is open which pairs are right, all or none are, or an embedding is not finite.
        """
        start = time.monotonic()
        rows = sample_rows(len(held.score), self.pairs)
        left_P, right_P = held.left[rows], held.right[rows]
        is_right_P = self._right(held.score[rows], held.name)
        per_pair, notes = {}, []
        for kind, similar_P in _similarities(left_P, right_P, embed, self.similarities).items():
            per_pair[f"AP {kind}"] = binary.average_precision(similar_P, is_right_P)
            per_pair[f"F1 {kind}"], threshold = binary.best_f1(similar_P, is_right_P)
            notes.append(f"F1 {kind}: pairs of at least {threshold:.4g} count as right.")
        counts = {"right pairs": int(is_right_P.sum())}
        pairs_P2 = np.column_stack([left_P, right_P])
        return _result(held, pairs_P2, per_pair, start, self.bootstrap_samples, counts, notes)

    def _right(self, score_P: Floats, name: str) -> NDArray[np.bool_]:
        values = np.unique(score_P)
        if self.right_from is None and len(values) > 2:
            what = f"{name}: there are {len(values):,} different scores, so it is open which pairs are right."
            raise FinetuneError(what, "Say from which score on they are: right_from=0.5")
        right_P: NDArray[np.bool_] = score_P >= (values[-1] if self.right_from is None else self.right_from)
        if right_P.all() or not right_P.any():
            what = f"{name}: {'all' if right_P.all() else 'none'} of the {len(score_P):,} pairs are right."
            raise FinetuneError(what, "Give right and wrong ones, or another right_from.")
        return right_P


def _similarities(left_P: Ints, right_P: Ints, embed: Embed, kinds: list[Kind]) -> dict[Kind, Floats]:
    """Return the similarity of each pair `(P,)` by its name; of distances the negative, so that more is more alike."""
    items_N, place = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
    emb_ND = check_finite(embed(items_N))
    place = place.reshape(-1)
    unit_ND = normalize(emb_ND) if "cosine" in kinds else emb_ND

    def of(kind: Kind) -> Floats:
        base_ND = unit_ND if kind == "cosine" else emb_ND
        left_PD = base_ND[place[: len(left_P)]].astype(np.float64)
        right_PD = base_ND[place[len(left_P) :]].astype(np.float64)
        if kind == "euclidean":
            similar_P: Floats = -np.linalg.norm(left_PD - right_PD, axis=1)
        else:
            similar_P = (left_PD * right_PD).sum(1)
        return similar_P

    return {kind: of(kind) for kind in kinds}


def _result(
    held: ScoredPairs,
    pairs_P2: Ints,
    per_pair: dict[str, Floats],
    start: float,
    samples: int,
    counts: dict[str, int],
    notes: list[str] | None = None,
) -> Result:
    return Result(
        name=held.name,
        headline=next(iter(per_pair)),
        per_query=per_pair,
        queries=pairs_P2,
        counts={"scored pairs": len(pairs_P2), **counts},
        bootstrap_samples=samples,
        seconds=time.monotonic() - start,
        notes=notes or [],
    )
