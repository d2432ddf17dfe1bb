"""How well embeddings tell the classes of items: by their neighbours, by a linear probe, by clusters.

Shapes: N items, D width.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch

from finetune.config.types import NotEmpty, Positive, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.clusters import k_means, v_measure
from finetune.evaluation.evaluator import Embed, Evaluator, Texts, check_finite, sample_rows
from finetune.evaluation.probes import knn_predict, linear_probe_predict
from finetune.evaluation.result import Floats, Ints, Result

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import LabelledItems


class Classification(Evaluator):
    """Share of items whose class is told right; the arguments are explained in their config file."""

    evaluates: ClassVar[str] = "labelled items"

    def __init__(
        self,
        by: Annotated[list[Literal["neighbours", "linear"]], NotEmpty()],
        neighbours: PositiveInt,
        strength: Positive,
        known: PositiveInt | None,
        items: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.by = by
        self.neighbours = neighbours
        self.strength = strength
        self.known = known
        self.items = items

    def evaluate(
        self, held: LabelledItems, embed: Embed, texts: Texts | None = None, device: torch.device | str = "cpu"
    ) -> Result:
        """Learn the classes from some of the items, and tell those of the others.

        Raises FinetuneError when there are none of either, or an embedding is not finite.
        """
        start = time.monotonic()
        known, asked = (np.flatnonzero(rows) for rows in (held.known, ~held.known))
        known, asked = known[sample_rows(len(known), self.known)], asked[sample_rows(len(asked), self.items)]
        if not len(asked) or len(np.unique(held.label[known])) < 2:
            what = f"{held.name}: to tell classes takes items of at least two, and others to be told."
            raise FinetuneError(what, "Give more labelled items.")
        emb_ND = check_finite(embed(held.items[np.concatenate([known, asked])]))
        known_MD, asked_ND = emb_ND[: len(known)], emb_ND[len(known) :]
        per_item: dict[str, Floats] = {}
        for way in self.by:
            if way == "neighbours":
                told_N = knn_predict(known_MD, held.label[known], asked_ND, self.neighbours)
            else:
                told_N = linear_probe_predict(known_MD, held.label[known], asked_ND, self.strength)
            name = f"accuracy {f'{self.neighbours} neighbours' if way == 'neighbours' else way}"
            per_item[name] = (told_N == held.label[asked]).astype(np.float64)
        counts = {"items": len(asked), "items to learn from": len(known)}
        return _result(held, asked, per_item, counts, start, self.bootstrap_samples)


class Clustering(Evaluator):
    """The V-measure of as many clusters as there are classes; the arguments are explained in their config file."""

    evaluates: ClassVar[str] = "labelled items"

    def __init__(
        self,
        items: PositiveInt | None,
        tries: PositiveInt,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.items = items
        self.tries = tries

    def evaluate(
        self, held: LabelledItems, embed: Embed, texts: Texts | None = None, device: torch.device | str = "cpu"
    ) -> Result:
        """Cluster the items that are held out, and compare with their classes.

        Raises FinetuneError when they are of one class only, or an embedding is not finite.
        """
        start = time.monotonic()
        rows = np.flatnonzero(~held.known)
        rows = rows[sample_rows(len(rows), self.items)]
        classes = len(np.unique(held.label[rows]))
        if classes < 2:
            what = f"{held.name}: the items are of {classes} class{'' if classes == 1 else 'es'}."
            raise FinetuneError(what, "Clusters are compared with at least two classes.")
        cluster_N = k_means(check_finite(embed(held.items[rows])), classes, 0, self.tries)
        per_item = {"V-measure": v_measure(held.label[rows], cluster_N)}
        return _result(held, rows, per_item, {"items": len(rows)}, start, self.bootstrap_samples)


def _result(
    held: LabelledItems,
    rows: Ints,
    per_item: dict[str, Floats],
    counts: dict[str, int],
    start: float,
    samples: int,
) -> Result:
    return Result(
        name=held.name,
        headline=next(iter(per_item)),
        per_query=per_item,
        queries=held.items[rows],
        counts={**counts, "classes": len(np.unique(held.label[rows]))},
        bootstrap_samples=samples,
        seconds=time.monotonic() - start,
    )
