"""What every evaluator is: something held out and a model in, a `TrialResult` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.errors import FinetuneError
from finetune.evaluation.result import Ints, Result

# Takes item rows (n,) and gives their embeddings (n, D).
Embed = Callable[[Ints], NDArray[np.float32]]
# Takes item rows and gives them as texts.
Texts = Callable[[Ints], list[str]]
# What a text is in its task; another one has no prompt.
Role = Literal["query", "document"]
# Takes n texts, what they are, and what stands beside the progress; gives their embeddings (n, D).
EmbedTexts = Callable[[Sequence[str], Role | None, str], NDArray[np.float32]]


class Evaluator:
    """Measures one model on one kind of held-out data; the class variables are read from the source before a run.

    `evaluates` is the kind: `judgments`, `scored pairs` or `labelled items`. With `takes_scores` it asks for the scores
    of pairs, which any model can give, instead of embeddings. `data` is a source of its own, `None` for what the run
    holds out. One that is `report_only` has its own texts, and no run is judged by it. With `during_training` callbacks
    measure it too. What `brings_texts` is a `TextEvaluator`.
    """

    evaluates: ClassVar[str] = "judgments"
    takes_scores: ClassVar[bool] = False
    report_only: ClassVar[bool] = False
    brings_texts: ClassVar[bool] = False
    during_training: bool = True

    def __init__(self, bootstrap_samples: int, data: Mapping[str, Any] | None) -> None:
        self.bootstrap_samples = bootstrap_samples
        self.data = data

    def evaluate(
        self, held: Any, embed: Embed, texts: Texts | None = None, device: torch.device | str = "cpu"
    ) -> Result:
        """Measure what `embed` makes of the items of `held`.

        `texts` gives items as texts, where all are some; `device` is where to compute what is large.

        Raises:
            FinetuneError: there is nothing to measure, or an embedding is not finite.
        """
        raise NotImplementedError


class TextEvaluator(Evaluator):
    """Measures on texts of its own, which are not known before it asks for their embeddings."""

    brings_texts: ClassVar[bool] = True

    def measure(self, embed: EmbedTexts) -> Result:
        """Measure what `embed` makes of texts.

        Raises:
            FinetuneError: there is nothing to measure, or an embedding is not finite.
        """
        raise NotImplementedError


def sample_rows(count: int, most: int | None) -> Ints:
    """Return which of `count` are measured, ascending: all of them, or `most`, always the same ones."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def check_finite(emb_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embeddings.

    Raises:
        FinetuneError: one is no number.
    """
    if bad := int((~np.isfinite(emb_ND).all(1)).sum()):
        raise FinetuneError(
            f"{bad:,} of {len(emb_ND):,} embeddings are not numbers (NaN or infinite).",
            "The training has diverged: try a lower optimizer.lr, or trainer.precision=32-true.",
        )
    return emb_ND
