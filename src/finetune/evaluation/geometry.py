"""Alignment and uniformity: how close right pairs are, and how evenly the embeddings cover the unit sphere.

Shapes: P right pairs, N items, D width.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.config.types import PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Embed, Evaluator, Search, Texts, check_finite, sample_rows
from finetune.evaluation.result import Floats, Result
from finetune.evaluation.retrieval_task import prepare_task, sample_queries
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize

if TYPE_CHECKING:
    from finetune.data.holdout.judgments import Judgments

Embeddings = NDArray[np.float32]

_ROWS = 1024  # items whose distances to all others are in memory at the same time


class Geometry(Evaluator):
    """Alignment and uniformity with flipped sign, so that higher is better; arguments: see the config file.

    Wang and Isola 2020, https://arxiv.org/abs/2005.10242, with alpha 2 and t 2, for embeddings of unit length.
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
        self, eval_data: Judgments, embed: Embed, texts: Texts | None = None, search: Search = top_k
    ) -> Result:
        """Compute the alignment of the right pairs, and the uniformity of a sample of all items.

        Raises:
            FinetuneError: no judgment is above grade 0, there are too few items, or an embedding is not finite.
        """
        start = time.monotonic()
        task, _ = prepare_task(sample_queries(eval_data, self.queries))
        query_P, document_P = np.divmod(task.keys[task.grades > 0], len(task.corpus))
        left_P, right_P = task.queries[query_P], task.corpus[document_P]
        all_items = np.unique(np.concatenate([task.queries, task.corpus]))
        if len(all_items) < 3:
            raise FinetuneError(f"{eval_data.name}: there are fewer than three items.", "Give more data.")
        sample_N = all_items[sample_rows(len(all_items), self.items)]
        rows = np.unique(np.concatenate([left_P, right_P, sample_N]))
        emb_ND = normalize(check_finite(embed(rows)))
        left_PD, right_PD = emb_ND[np.searchsorted(rows, left_P)], emb_ND[np.searchsorted(rows, right_P)]
        return Result(
            name=eval_data.name,
            headline="-alignment",
            per_query={
                "-alignment": -alignment(left_PD, right_PD),
                "-uniformity": -uniformity(emb_ND[np.searchsorted(rows, sample_N)]),
            },
            queries=np.column_stack([left_P, right_P]),
            counts={"right pairs": len(left_P), "items": len(sample_N)},
            bootstrap_samples=self.bootstrap_samples,
            seconds=time.monotonic() - start,
        )


def alignment(left_PD: Embeddings, right_PD: Embeddings) -> Floats:
    """Return the squared distance of each pair `(P,)`."""
    squares: Floats = ((left_PD.astype(np.float64) - right_PD) ** 2).sum(1)
    return squares


def uniformity(emb_ND: Embeddings) -> Floats:
    """Return log of the mean of exp(-2 squared distance) over all pairs of items, as one share per item `(N,)`.

    Lower is more even. The shares are the value plus its influence function, as in `finetune.metrics.pairs`. All
    embeddings have unit length.
    """
    points_ND = torch.as_tensor(emb_ND, dtype=torch.float64)
    squares = (2 - 2 * part @ points_ND.T for part in torch.split(points_ND, _ROWS))
    near_N = torch.cat([torch.exp(-2 * square_nN).sum(1) for square_nN in squares])
    near_N = (near_N - 1) / (len(points_ND) - 1)  # without each item itself
    shares: Floats = (near_N.mean().log() + 2 * (near_N / near_N.mean() - 1)).numpy()
    return shares
