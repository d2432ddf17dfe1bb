"""Whether the model still does what it could before, on a set that has nothing to do with what it is trained for."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from finetune.config.types import NotEmpty, PositiveInt
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.retrieval import Retrieval
from finetune.report.report_data import change_data

WHAT = "Judgments of a general set, on which the model was not trained: what it loses there, it has forgotten."


class Forgetting(Retrieval):
    """The metrics of `Retrieval` on a general set; no run is judged by it, it is only told what was lost."""

    watches: ClassVar[bool] = True

    def __init__(
        self, metrics: Annotated[list[str], NotEmpty()], bootstrap_samples: PositiveInt, data: dict[str, Any]
    ) -> None:
        super().__init__(metrics, None, True, [], [], "exact", False, bootstrap_samples, data)


def forgetting_data(comparison: Comparison) -> dict[str, Any]:
    """Return the report's `forgetting`."""
    return {
        "name": comparison.after.name,
        "what": WHAT,
        "verdict": comparison.verdict,
        "counts": comparison.after.counts,
        "metrics": {row.metric: change_data(row.change) for row in comparison.rows},
    }
