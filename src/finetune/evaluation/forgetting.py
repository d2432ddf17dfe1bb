"""Whether the model has lost general abilities, measured on a data set unrelated to the training data."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from finetune.config.types import Built, NotEmpty, PositiveInt
from finetune.evaluation.retrieval import Retrieval


class Forgetting(Retrieval):
    """The metrics of `Retrieval` on a general data set; only reported, never used to judge or select a run."""

    report_only: ClassVar[bool] = True

    def __init__(
        self, metrics: Annotated[list[str | Built], NotEmpty()], bootstrap_samples: PositiveInt, data: dict[str, Any]
    ) -> None:
        super().__init__(
            metrics,
            queries=None,
            exclude_self=True,
            dimensions=[],
            precisions=[],
            index="exact",
            bm25=False,
            bootstrap_samples=bootstrap_samples,
            data=data,
        )
