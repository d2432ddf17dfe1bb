"""A few items and pairs as the model sees them, before and after: what the report says beside the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.analysis.entries import locate_entries, suspect_label_entries, suspect_pair_entries
from finetune.analysis.label_errors import (
    RankedHits,
    SuspectPair,
    false_negatives,
    hits_of_search,
    hits_of_training,
    wrong_labels,
    wrong_pairs,
)
from finetune.analysis.pca_map import pca_map
from finetune.analysis.sample import HeldOutSample, sample_held_out, sample_labeled_items, sample_training_pairs
from finetune.analysis.similarities import similarities
from finetune.data.arrays import Ints, distinct
from finetune.data.dataset import Dataset
from finetune.data.holdout.eval_data import LabelledItems
from finetune.data.settings import Data
from finetune.encoding.collectives import Collectives
from finetune.evaluation.result import Result
from finetune.evaluation.retrieval import RetrievalResult
from finetune.training.evaluation_runner import EmbeddingRecorder, EvaluationRunner

_TOKENS = 50_000  # of the training pairs that are looked at: seconds on two cores


@dataclass(frozen=True)
class Snapshots:
    """Keeps the embeddings of a few items when the evaluators ask for them; what they leave out is embedded then.

    A run that goes on measures the model as it came again, and with it this. `rows` are the training pairs, `labelled`
    the items of classes that are looked at in the end.
    """

    dataset: Dataset
    measure: EvaluationRunner
    held: HeldOutSample
    rows: Ints
    labelled: LabelledItems | None
    _seen: dict[str, EmbeddingRecorder] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, measure: EvaluationRunner, cost_N: Ints) -> Snapshots | None:
        """Return the portrait of a data set; None if it holds out nothing to look at.

        `cost_N` is what each item costs to embed, in tokens.
        """
        held = sample_held_out(dataset)
        if held is None or not len(held.right) or not len(held.wrong):
            return None
        rows = sample_training_pairs(dataset.train, cost_N, _TOKENS)
        return cls(dataset, measure, held, rows, sample_labeled_items(dataset))

    def begin(self, when: str) -> None:
        """Say that the model is measured next, `when` being `before` or `after`."""
        items = [self.held.items()]
        if when == "after":
            items.append(self.dataset.train.take(self.rows).used_items())
            items += [self.labelled.items] if self.labelled is not None else []
        self.measure.watch(distinct(np.concatenate(items)))

    def end(self, when: str, together: Collectives) -> None:
        """Say that it was measured; of several processes the first one has seen it."""
        self._seen[when] = self.measure.watched(together, f"looking at the data {when}")

    def findings(self) -> dict[str, Any]:
        """Return the report's `similarities` and `map`."""
        before, after, mapped = self._seen["before"].of, self._seen["after"].of, self.held.mapped
        return {
            "similarities": similarities(self.held, before, after),
            "map": pca_map(mapped, before(mapped), after(mapped), self.dataset),
        }

    def doubts(self, results: Iterable[Result], data: Data) -> dict[str, Any]:
        """Return what of the report's `data` the tuned model contradicts; reads the sources once more.

        `results` are those of the tuned model on what the run holds out. `looked_at` says of how much, and how many
        doubts there are where more than are listed.
        """
        ranked = self._ranked(results)
        missed, wrong = ({part: find(one) for part, one in ranked.items()} for find in (false_negatives, wrong_pairs))
        items = np.empty(0, np.int64) if self.labelled is None else self.labelled.items
        labels = [] if self.labelled is None else wrong_labels(self._seen["after"].of(items), self.labelled.label)
        wrong_entries = suspect_pair_entries(self.dataset, wrong) + suspect_label_entries(self.dataset, items, labels)
        return {
            "false_negatives": locate_entries(suspect_pair_entries(self.dataset, missed), data),
            "wrong_labels": locate_entries(wrong_entries, data),
            "looked_at": {
                "pairs": {part: len(one.queries) for part, one in ranked.items()},
                "labelled_items": len(items),
                "false_negatives": _count(missed),
                "wrong_labels": _count(wrong) + len(labels),
            },
        }

    def _ranked(self, results: Iterable[Result]) -> dict[str, RankedHits]:
        """Return what was found in the held-out search, unless it asks for classes, and among the training pairs."""
        look, found = self._seen["after"].of, {}
        search = next((one for one in results if isinstance(one, RetrievalResult)), None)
        if search is not None and (self.labelled is None or len(self.rows)):
            found["held out"] = hits_of_search(search, self.held, look)
        if len(self.rows):
            found["training"] = hits_of_training(self.dataset, self.rows, look)
        return found


def _count(found: Mapping[str, Sequence[SuspectPair]]) -> int:
    return sum(map(len, found.values()))
