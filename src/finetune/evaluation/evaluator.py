"""The base classes of all evaluators: evaluation data and a model in, a `Result` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import FinetuneError
from finetune.evaluation.result import Ints, Result
from finetune.evaluation.search import top_k

# Maps item rows (n,) to their embeddings (n, D).
Embed = Callable[[Ints], NDArray[np.float32]]
# Maps queries (Q, D), documents (M, D) and k to what `top_k` returns: scores and indices (Q, k) of the best documents.
Search = Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[NDArray[np.float32], Ints]]
# Maps item rows to their texts.
Texts = Callable[[Ints], list[str]]
# The role of a text in its task, which selects its prompt.
Role = Literal["query", "document"]
# Maps n texts, their role (None: no prompt) and a label for the progress bar to embeddings (n, D).
EmbedTexts = Callable[[Sequence[str], Role | None, str], NDArray[np.float32]]


class Evaluator:
    """Measures one model on one kind of evaluation data; the class variables are read from the source before a run.

    `evaluates` is the kind: `judgments`, `scored pairs` or `labelled items`. With `takes_scores` it uses scores of
    pairs, which any model can compute, instead of embeddings. `data` is a data source of its own, None for the part of
    the run's data that is held out. A `report_only` evaluator has its own texts, and no run is judged by it. With
    `during_training` it is also measured by callbacks. `brings_texts` is set by `TextEvaluator`.

    `metric_names` are the metrics that its argument `metrics` may name, apart from those with a cut-off.
    `metric_inputs` are the arguments that it offers to the `update` of a metric, by the names of the parameters, and
    `metric_package` is the part of torchmetrics whose metrics take these.
    """

    evaluates: ClassVar[str] = "judgments"
    takes_scores: ClassVar[bool] = False
    report_only: ClassVar[bool] = False
    brings_texts: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = ()
    metric_inputs: ClassVar[tuple[str, ...]] = ()
    metric_package: ClassVar[str] = ""
    during_training: bool = True

    def __init__(self, bootstrap_samples: int, data: Mapping[str, Any] | None) -> None:
        self.bootstrap_samples = bootstrap_samples
        self.data = data

    def evaluate(self, eval_data: Any, embed: Embed, texts: Texts | None = None, search: Search = top_k) -> Result:
        """Measure the embeddings of the items of `eval_data`.

        `texts` returns items as texts, None if some are not texts; `search` finds nearest neighbors.

        Raises:
            FinetuneError: there is nothing to measure, or an embedding is not finite.
        """
        raise NotImplementedError


class TextEvaluator(Evaluator):
    """Measures on its own texts, which are unknown until it asks for their embeddings."""

    brings_texts: ClassVar[bool] = True

    def measure(self, embed: EmbedTexts) -> Result:
        """Measure the embeddings that `embed` returns for texts.

        Raises:
            FinetuneError: there is nothing to measure, or an embedding is not finite.
        """
        raise NotImplementedError


def sample_rows(count: int, most: int | None) -> Ints:
    """Return a fixed random sample of at most `most` of `count` rows, ascending; all rows without a limit."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def check_finite(emb_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embeddings unchanged.

    Raises:
        FinetuneError: one is not finite.
    """
    bad = int((~np.isfinite(emb_ND).all(1)).sum())
    if bad:
        raise FinetuneError(
            f"{bad:,} of {len(emb_ND):,} embeddings are not finite (NaN or infinite).",
            "The training has diverged: try a lower optimizer.lr, or trainer.precision=32-true.",
        )
    return emb_ND
