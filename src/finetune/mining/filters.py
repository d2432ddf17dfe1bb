"""Which candidates are left out because they may be right, or are too easy; and how many, with examples.

Shapes: B rows, K candidates of each.
"""

from __future__ import annotations

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.holdout.text_normalization import Bools
from finetune.data.items import ABSENT
from finetune.mining.mined import SHOWN, Example, Filtered
from finetune.mining.retriever import Floats
from finetune.mining.settings import Mining


def passes_thresholds(scores_BK: Floats, positive_B: Floats, settings: Mining) -> dict[str, Bools]:
    """Return for each threshold that is set which candidates pass it `(B, K)`, by its key.

    The positive is that of the row, not the best or worst of its anchor: the row is the example that the loss sees, and
    so in NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831), where a share of its score is found to
    be the best threshold. A negative score of a positive lowers the threshold too, as in sentence-transformers.
    """
    positive_B1 = positive_B[:, None]
    passed: dict[str, Bools] = {}
    if settings.max_share_of_positive is not None:
        less = np.float32(1 - settings.max_share_of_positive)
        passed["max_share_of_positive"] = scores_BK <= positive_B1 - np.abs(positive_B1) * less
    if settings.margin is not None:
        passed["margin"] = scores_BK + np.float32(settings.margin) <= positive_B1
    if settings.max_score is not None:
        passed["max_score"] = scores_BK <= np.float32(settings.max_score)
    if settings.min_score is not None:
        passed["min_score"] = scores_BK >= np.float32(settings.min_score)
    return passed


class Tally:
    """Counts what each filter leaves out of `rows` rows, over all blocks; the examples are those of the first rows."""

    def __init__(self, rows: int) -> None:
        self._total = rows
        self._candidates: dict[str, int] = {}
        self._rows: dict[str, Bools] = {}
        self._examples: dict[str, list[tuple[int, Example]]] = {}

    def add(
        self,
        name: str,
        left_out_BK: Bools,
        rows_B: Ints,
        anchor_B: Ints,
        positive_B: Ints,
        items_BK: Ints,
        scores_BK: Floats,
        positive_score_B: Floats,
    ) -> None:
        """Add candidates that a filter leaves out; `rows_B` are the numbers of the rows."""
        self._candidates[name] = self._candidates.get(name, 0) + int(left_out_BK.sum())
        any_B = left_out_BK.any(axis=1)
        self._rows.setdefault(name, np.zeros(self._total, bool))[rows_B[any_B]] = True
        examples = self._examples.setdefault(name, [])
        for row in np.flatnonzero(any_B)[np.argsort(rows_B[any_B], kind="stable")][:SHOWN]:
            place = int(np.argmax(left_out_BK[row]))
            example = Example(
                int(anchor_B[row]),
                int(positive_B[row]),
                int(items_BK[row, place]),
                float(scores_BK[row, place]),
                float(positive_score_B[row]),
            )
            examples.append((int(rows_B[row]), example))
        examples.sort(key=lambda each: each[0])
        del examples[SHOWN:]

    def filtered(self) -> dict[str, Filtered]:
        """Return what each filter left out."""
        return {
            name: Filtered(count, int(self._rows[name].sum()), tuple(example for _, example in self._examples[name]))
            for name, count in self._candidates.items()
        }


def is_in_ranks(items_BK: Ints, first_rank: int) -> Bools:
    """Return which candidates there are from this rank on, `(B, K)`."""
    in_ranks: Bools = items_BK != ABSENT
    in_ranks[:, : first_rank - 1] = False
    return in_ranks
