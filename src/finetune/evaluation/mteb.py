"""Evaluation on MTEB tasks, by the code of MTEB with the embeddings of our encoder.

Shapes: N texts, D width, Q queries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from finetune.config.suggest import did_you_mean
from finetune.config.types import NotEmpty, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import EmbedTexts, Role, TextEvaluator, check_finite
from finetune.evaluation.mteb_tasks import find_tasks, load_task_data, unload_task_data
from finetune.evaluation.result import Floats, Result

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta

PerQuery = Mapping[str, Mapping[str, float]]  # queries to names to scores

MEAN = "mean over tasks"
_BATCH = 1024  # batch size of MTEB's loader; all texts of a call are collected anyway
# Names of scores of a search task, and their names per query in pytrec_eval.
_PER_QUERY = {"ndcg_at_": "ndcg_cut_", "map_at_": "map_cut_", "recall_at_": "recall_"}
_MAX_NAMED = 3  # tasks that are listed in the name of the result
_TOLERANCE = 1e-4  # MTEB rounds to five digits


class Mteb(TextEvaluator):
    """The main score of each task, and their mean if there are several; the arguments are documented in their config.

    A metric has one number per query for a search task in one language and split, else one per language and split.
    """

    def __init__(
        self,
        tasks: Annotated[list[str], NotEmpty()],
        languages: Annotated[list[str], NotEmpty()] | None,
        splits: Annotated[list[str], NotEmpty()] | None,
        scores: list[str],
        during_training: bool,
        bootstrap_samples: PositiveInt,
    ) -> None:
        super().__init__(bootstrap_samples, None)
        self.tasks = tasks
        self.languages = languages
        self.splits = splits
        self.scores = scores
        self.during_training = during_training
        self._known_scores: set[str] = set()  # names of all scores in the results so far

    def measure(self, embed: EmbedTexts) -> Result:
        """Run all tasks with the embeddings that `embed` returns for their texts.

        Raises:
            FinetuneError: the data of a task cannot be loaded, a score is in no task, or an embedding is not finite.
        """
        start = time.monotonic()
        tasks = find_tasks(self.tasks, self.languages, self.splits)
        with _no_progress_bars():
            all_scores = [self._run_task(task, embed) for task in tasks]
        columns: dict[str, Floats] = {}
        for scores in all_scores:
            columns |= scores.columns
        self._check_scores(columns)
        cases = all_scores[0].cases
        if len(all_scores) > 1:
            cases = "tasks"
            columns = {MEAN: np.array([scores.main.mean() for scores in all_scores]), **columns}
        headline = next(iter(columns))
        return Result(
            name=_result_name([task.metadata.name for task in tasks]),
            headline=headline,
            per_query=columns,
            queries=np.arange(len(columns[headline])),
            counts={cases: len(columns[headline])},
            bootstrap_samples=self.bootstrap_samples,
            seconds=time.monotonic() - start,
        )

    def _run_task(self, task: AbsTask, embed: EmbedTexts) -> _Scores:
        import mteb

        load_task_data(task)
        kwargs: Any = {"batch_size": _BATCH, "show_progress_bar": False}
        with _record_query_scores(task) as queries:
            # No cache of results: the model changes.
            result = mteb.evaluate(
                _Encoder(embed), task, co2_tracker=False, cache=None, encode_kwargs=kwargs, show_progress_bar=False
            ).task_results[0]
        unload_task_data(task)
        entries = [dict(entry) for split in result.scores.values() for entry in split]
        return self._read_scores(entries, queries, task.metadata)

    def _read_scores(self, entries: list[dict[str, Any]], queries: list[PerQuery], metadata: TaskMetadata) -> _Scores:
        """Return the requested scores of a task from its entries, one per language and split, and from its queries."""
        names = [{name for name, value in entry.items() if isinstance(value, Real)} for entry in entries]
        known = set.intersection(*names)
        self._known_scores |= known
        main, cases = _numbers(entries, "main_score"), "scores"
        if len(queries) == 1 == len(entries):
            main_Q = _main_score_per_query(queries[0], metadata.main_score, main)
            if main_Q is not None:
                main, cases = main_Q, "queries"
        columns = {f"{metadata.name} {metadata.main_score}": main}
        for name in self.scores:
            if name in known and name != metadata.main_score:
                columns[f"{metadata.name} {name}"] = _numbers(entries, name)
        return _Scores(main, cases, columns)

    def _check_scores(self, columns: dict[str, Floats]) -> None:
        for name in self.scores:
            if not any(column.endswith(f" {name}") for column in columns):
                known = self._known_scores
                advice = did_you_mean(name, known) or f"There are: {', '.join(sorted(known)[:20])}."
                raise FinetuneError(f"no task of evaluation.mteb has a score '{name}'.", advice)


@dataclass(frozen=True)
class _Scores:
    """The scores of one task: the numbers of its main score, what they are of (`queries`), and all columns by name."""

    main: Floats
    cases: str
    columns: dict[str, Floats]


class _Encoder:
    """The encoder interface of MTEB: texts to embeddings; similarity is the dot product, as in our own search."""

    def __init__(self, embed: EmbedTexts) -> None:
        from mteb.models import ModelMeta

        self._embed = embed
        self.mteb_model_meta: ModelMeta = ModelMeta.create_empty({"name": "finetune/model", "revision": "none"})

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """Return the embeddings `(N, D)` of the texts of a data loader, in its order."""
        texts = [text for batch in inputs for text in batch["text"]]
        role: Role | None = None
        if prompt_type is not None:
            role = prompt_type.value
        return check_finite(self._embed(texts, role, task_metadata.name))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the dot products of all pairs of embeddings."""
        from mteb.similarity_functions import dot_score

        return dot_score(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the dot products of embeddings with the same index."""
        from mteb.similarity_functions import pairwise_dot_score

        return pairwise_dot_score(embeddings1, embeddings2)


@contextmanager
def _record_query_scores(task: AbsTask) -> Iterator[list[PerQuery]]:
    """Record the scores of each query of a search task, through MTEB's hook for task-specific scores."""
    recorded: list[PerQuery] = []
    hook = getattr(task, "task_specific_scores", None)
    if not hook:
        yield recorded
        return

    def record(scores: PerQuery, *args: Any, **kwargs: Any) -> Any:
        recorded.append(scores)
        return hook(scores, *args, **kwargs)

    task.task_specific_scores = record  # type: ignore[attr-defined]
    try:
        yield recorded
    finally:
        del task.task_specific_scores  # type: ignore[attr-defined]


def _main_score_per_query(scores: PerQuery, main: str, mean: Floats) -> Floats | None:
    """Return the main score of each query, `(Q,)`; None if the main score is not their mean."""
    for prefix, query_prefix in _PER_QUERY.items():
        if main.startswith(prefix):
            name = main.replace(prefix, query_prefix)
            values_Q = np.array([of_query.get(name, np.nan) for _, of_query in sorted(scores.items())], np.float64)
            if len(values_Q) and abs(values_Q.mean() - mean[0]) < _TOLERANCE:
                return values_Q
    return None


def _numbers(entries: list[dict[str, Any]], name: str) -> Floats:
    return np.array([entry[name] for entry in entries], np.float64)  # None becomes NaN


def _result_name(tasks: list[str]) -> str:
    more = f" and {len(tasks) - _MAX_NAMED} more" if len(tasks) > _MAX_NAMED else ""
    return f"MTEB: {', '.join(tasks[:_MAX_NAMED])}{more}"


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Disable the progress bars of `datasets`: each step of a task would show its own."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()
