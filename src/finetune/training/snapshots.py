"""Embeddings of a few items and pairs before and after the training: what the report shows in addition to metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.analysis.entries import locate_entries, suspect_label_entries, suspect_pair_entries
from finetune.analysis.label_errors import (
    RankedHits,
    SuspectPair,
    WrongLabel,
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
from finetune.encoding.embedder import EmbeddingRecorder
from finetune.evaluation.result import Result
from finetune.evaluation.retrieval import RetrievalResult
from finetune.training.evaluation_runner import EvaluationRunner

_MAX_TRAINING_TOKENS = 50_000  # of the sampled training pairs: seconds on two cores


@dataclass(frozen=True)
class Snapshots:
    """Records the embeddings of sampled items during the evaluations; only items that these leave out cost extra.

    `held` are held-out pairs, `rows` training pairs, `labelled` items of classes; the latter two are embedded after
    the training only. A resumed run takes its first snapshot from the untouched model again.
    """

    dataset: Dataset
    runner: EvaluationRunner
    held: HeldOutSample
    rows: Ints
    labelled: LabelledItems | None
    _recorded: dict[str, EmbeddingRecorder] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, runner: EvaluationRunner, cost_N: Ints) -> Snapshots | None:
        """Return the snapshots of a data set; None if it holds out no pairs.

        `cost_N` is the cost of embedding each item, in tokens.
        """
        held = sample_held_out(dataset)
        if held is None or not len(held.right) or not len(held.wrong):
            return None
        rows = sample_training_pairs(dataset.train, cost_N, _MAX_TRAINING_TOKENS)
        return cls(dataset, runner, held, rows, sample_labeled_items(dataset))

    def start(self, when: str) -> None:
        """Start to record, prior to the evaluation `before` or `after` the training."""
        items = [self.held.items()]
        if when == "after":
            items.append(self.dataset.train.take(self.rows).used_items())
            if self.labelled is not None:
                items.append(self.labelled.items)
        self.runner.start_recording(distinct(np.concatenate(items)))

    def stop(self, when: str, collectives: Collectives) -> None:
        """Stop to record; the embeddings are valid in the first process only."""
        self._recorded[when] = self.runner.stop_recording(collectives, f"embedding samples {when}")

    def findings(self) -> dict[str, Any]:
        """Return the report's `similarities` and `map`."""
        before, after = self._recorded["before"].embeddings, self._recorded["after"].embeddings
        mapped = self.held.mapped
        return {
            "similarities": similarities(self.held, before, after),
            "map": pca_map(mapped, before(mapped), after(mapped), self.dataset),
        }

    def doubts(self, results: Iterable[Result], data: Data) -> dict[str, Any]:
        """Return what of the report's `data` the tuned model contradicts; reads the sources once more.

        `results` are those of the tuned model on what the run holds out. `looked_at` has the number of pairs and items
        that were checked, and of all doubts, of which not all may be listed.
        """
        ranked = self._ranked(results)
        missed = {part: false_negatives(one) for part, one in ranked.items()}
        wrong = {part: wrong_pairs(one) for part, one in ranked.items()}
        items, labels = self._wrong_labels()
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

    def _wrong_labels(self) -> tuple[Ints, list[WrongLabel]]:
        """Return the items whose classes were checked, and the doubts about them."""
        if self.labelled is None:
            return np.empty(0, np.int64), []
        items = self.labelled.items
        return items, wrong_labels(self._recorded["after"].embeddings(items), self.labelled.label)

    def _ranked(self, results: Iterable[Result]) -> dict[str, RankedHits]:
        """Return the rankings of the held-out search, unless it searches for classes, and of the training pairs."""
        embeddings, ranked = self._recorded["after"].embeddings, {}
        search = next((result for result in results if isinstance(result, RetrievalResult)), None)
        if search is not None and (self.labelled is None or len(self.rows)):
            ranked["held out"] = hits_of_search(search, self.held, embeddings)
        if len(self.rows):
            ranked["training"] = hits_of_training(self.dataset, self.rows, embeddings)
        return ranked


def _count(doubts: Mapping[str, Sequence[SuspectPair]]) -> int:
    return sum(len(of_part) for of_part in doubts.values())
