"""Alignment and uniformity: how near right pairs are, and how evenly all embeddings fill the sphere.

Shapes: P right pairs, N items, D width.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.config.types import PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Embed, Evaluator, Texts, check_finite, sample_rows
from finetune.evaluation.probes import Floats as Embeddings
from finetune.evaluation.result import Floats, Result
from finetune.evaluation.retrieval_task import prepare_task, sample_queries
from finetune.evaluation.truncation_quantization import normalize

if TYPE_CHECKING:
    from finetune.data.holdout.judgments import Judgments

_ROWS = 1024  # of items whose distances to all others are held at once


class Geometry(Evaluator):
    """Both with their sign turned, so that more is better; the arguments are explained in their config file.

    Wang and Isola 2020, https://arxiv.org/abs/2005.10242, with alpha 2 and t 2, of embeddings at unit length.
    """

    def __init__(
        self,
        queries: PositiveInt | None,
        items: PositiveInt,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.queries = queries
        self.items = items

    def evaluate(
        self, held: Judgments, embed: Embed, texts: Texts | None = None, device: torch.device | str = "cpu"
    ) -> Result:
        """Measure the right pairs, and some of all items.

        Raises FinetuneError when no judgment is above grade 0 or an embedding is not finite.
        """
        start = time.monotonic()
        task, _ = prepare_task(sample_queries(held, self.queries))
        query_P, document_P = np.divmod(task.keys[task.grades > 0], len(task.corpus))
        left_P, right_P = task.queries[query_P], task.corpus[document_P]
        everything = np.unique(np.concatenate([task.queries, task.corpus]))
        if len(everything) < 3:
            raise FinetuneError(f"{held.name}: there are fewer than three items.", "Give more data.")
        some_N = everything[sample_rows(len(everything), self.items)]
        rows = np.unique(np.concatenate([left_P, right_P, some_N]))
        emb_ND = normalize(check_finite(embed(rows)))
        place = {name: np.searchsorted(rows, items) for name, items in (("l", left_P), ("r", right_P), ("n", some_N))}
        return Result(
            name=held.name,
            headline="-alignment",
            per_query={
                "-alignment": -alignment(emb_ND[place["l"]], emb_ND[place["r"]]),
                "-uniformity": -uniformity(emb_ND[place["n"]]),
            },
            queries=np.column_stack([left_P, right_P]),
            counts={"right pairs": len(left_P), "items": len(some_N)},
            bootstrap_samples=self.bootstrap_samples,
            seconds=time.monotonic() - start,
        )


def alignment(left_PD: Embeddings, right_PD: Embeddings) -> Floats:
    """Squared distance of each pair `(P,)`; less is nearer."""
    squares: Floats = ((left_PD.astype(np.float64) - right_PD) ** 2).sum(1)
    return squares


def uniformity(emb_ND: Embeddings) -> Floats:
    """log of the mean of exp(-2 squared distance) over all pairs of items, one share of each `(N,)`; less is evener.

    The shares are the value and its influence function, as in `correlation.py`. All embeddings have unit length.
    """
    points_ND = torch.as_tensor(emb_ND, dtype=torch.float64)
    squares = (2 - 2 * part @ points_ND.T for part in torch.split(points_ND, _ROWS))
    near_N = torch.cat([torch.exp(-2 * square_nN).sum(1) for square_nN in squares])
    near_N = (near_N - 1) / (len(points_ND) - 1)  # without each item itself
    shares: Floats = (near_N.mean().log() + 2 * (near_N / near_N.mean() - 1)).numpy()
    return shares
