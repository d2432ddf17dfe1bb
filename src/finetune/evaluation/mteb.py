"""Tasks of MTEB, measured by its own code with our encoding.

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
_BATCH = 1024  # texts that MTEB hands over at once; all of a call are collected anyway
# What a search task calls its scores, and what pytrec_eval calls them of each query.
_PER_QUERY = {"ndcg_at_": "ndcg_cut_", "map_at_": "map_cut_", "recall_at_": "recall_"}
_NAMED = 3  # tasks, where they stand beside the numbers
_ROUNDED = 1e-4  # MTEB rounds to five digits


class Mteb(TextEvaluator):
    """The main score of each task, and their mean where there are several; the arguments are explained in their config.

    The numbers behind a metric are those of the queries of a search task in one language and split, else one for each
    language and split.
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
        self._known: set[str] = set()  # names of all scores that were met

    def measure(self, embed: EmbedTexts) -> Result:
        """Measure all tasks with what `embed` makes of their texts.

        Raises:
            FinetuneError: the data of a task cannot be had, no task has a score of a name, an embedding is no number.
        """
        start = time.monotonic()
        found: dict[str, Floats] = {}
        tasks = find_tasks(self.tasks, self.languages, self.splits)
        with _no_bars():
            each = [self._task(task, embed) for task in tasks]
        for one in each:
            found |= one.columns
        self._check_scores(found)
        if len(each) > 1:
            found = {MEAN: np.array([one.main.mean() for one in each]), **found}
        headline = next(iter(found))
        cases = "tasks" if len(each) > 1 else each[0].cases
        return Result(
            name=_called([task.metadata.name for task in tasks]),
            headline=headline,
            per_query=found,
            queries=np.arange(len(found[headline])),
            counts={cases: len(found[headline])},
            bootstrap_samples=self.bootstrap_samples,
            seconds=time.monotonic() - start,
        )

    def _task(self, task: AbsTask, embed: EmbedTexts) -> _Scores:
        import mteb

        load_task_data(task)
        kwargs: Any = {"batch_size": _BATCH, "show_progress_bar": False}
        with _listening(task) as queries:
            # No cache of results: they are of this model at this moment.
            result = mteb.evaluate(
                _Encoder(embed), task, co2_tracker=False, cache=None, encode_kwargs=kwargs, show_progress_bar=False
            ).task_results[0]
        unload_task_data(task)
        return self._read([dict(entry) for split in result.scores.values() for entry in split], queries, task.metadata)

    def _read(self, entries: list[dict[str, Any]], queries: list[PerQuery], about: TaskMetadata) -> _Scores:
        """Return what is wanted of the entries of a task, one for each language and split, and of its queries."""
        known = set.intersection(*({name for name, value in one.items() if isinstance(value, Real)} for one in entries))
        self._known |= known
        main, cases = _numbers(entries, "main_score"), "scores"
        if len(queries) == 1 == len(entries):
            in_queries = _per_query(queries[0], about.main_score, main)
            main, cases = (main, cases) if in_queries is None else (in_queries, "queries")
        further = [name for name in self.scores if name in known and name != about.main_score]
        columns = {about.main_score: main, **{name: _numbers(entries, name) for name in further}}
        return _Scores(main, cases, {f"{about.name} {name}": values for name, values in columns.items()})

    def _check_scores(self, found: dict[str, Floats]) -> None:
        for name in self.scores:
            if not any(column.endswith(f" {name}") for column in found):
                advice = did_you_mean(name, self._known) or f"There are: {', '.join(sorted(self._known)[:20])}."
                raise FinetuneError(f"no task of evaluation.mteb has a score '{name}'.", advice)


@dataclass(frozen=True)
class _Scores:
    """What one task gave: the numbers of its main score, what each of them is of, and all columns by name."""

    main: Floats
    cases: str
    columns: dict[str, Floats]


class _Encoder:
    """What MTEB takes an encoder for: texts in, embeddings out; similarity is the product, as in our own search."""

    def __init__(self, embed: EmbedTexts) -> None:
        from mteb.models import ModelMeta

        self._embed = embed
        self.mteb_model_meta: ModelMeta = ModelMeta.create_empty({"name": "finetune/model", "revision": "none"})

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """Return the embeddings `(N, D)` of the texts of a loader, in its order."""
        texts = [text for batch in inputs for text in batch["text"]]
        role: Role | None = None if prompt_type is None else prompt_type.value
        return check_finite(self._embed(texts, role, task_metadata.name))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the products of all embeddings with all others."""
        from mteb.similarity_functions import dot_score

        return dot_score(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the products of embeddings that stand at the same place."""
        from mteb.similarity_functions import pairwise_dot_score

        return pairwise_dot_score(embeddings1, embeddings2)


@contextmanager
def _listening(task: AbsTask) -> Iterator[list[PerQuery]]:
    """Collect what a search task found of each query, by the hook that MTEB has for scores of one's own."""
    found: list[PerQuery] = []
    hook = getattr(task, "task_specific_scores", None)

    def listen(scores: PerQuery, *rest: Any, **more: Any) -> Any:
        found.append(scores)
        return hook(scores, *rest, **more) if hook else {}

    if hook:
        task.task_specific_scores = listen  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        if hook:
            del task.task_specific_scores  # type: ignore[attr-defined]


def _per_query(scores: PerQuery, main: str, mean: Floats) -> Floats | None:
    """Return the main score of each query, `(Q,)`; None where it is something else than their mean."""
    for theirs, ours in _PER_QUERY.items():
        if main.startswith(theirs):
            name = main.replace(theirs, ours)
            values_Q = np.array([one.get(name, np.nan) for _, one in sorted(scores.items())], np.float64)
            if len(values_Q) and abs(values_Q.mean() - mean[0]) < _ROUNDED:
                return values_Q
    return None


def _numbers(entries: list[dict[str, Any]], name: str) -> Floats:
    return np.array([entry[name] for entry in entries], np.float64)  # NaN where there is none


def _called(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"MTEB: {', '.join(names[:_NAMED])}{more}"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Leave out the progress of datasets: each step of a task would draw its own."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()
