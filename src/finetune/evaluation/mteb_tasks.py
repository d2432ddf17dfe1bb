"""Tasks of MTEB by name: found, held against what can be measured here, and read; imports no torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.build import import_target
from finetune.config.suggest import did_you_mean
from finetune.config.targets import ALLOW, is_own
from finetune.data.cache.store import Cache
from finetune.errors import CheckFailed, FinetuneError, Problem

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

TARGET = "finetune.evaluation.mteb.Mteb"


def find_tasks(
    names: Sequence[str], languages: Sequence[str] | None, splits: Sequence[str] | None, key: str = "evaluation.mteb"
) -> list[AbsTask]:
    """Return the tasks that are meant, each once; `key` is where the config names them.

    Raises:
        CheckFailed: with every name that is none, and every task that cannot be measured.
    """
    _import()
    found: dict[str, AbsTask] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            some = list(_named(name, languages, f"{key}.tasks"))
        except CheckFailed as failed:
            problems += failed.problems
            continue
        problems += [problem for task in some for problem in _unfit(task, f"{key}.tasks", bool(languages or splits))]
        found |= {task.metadata.name: task.filter_eval_splits(splits) if splits else task for task in some}
    if problems:
        raise CheckFailed(problems)
    return list(found.values())


def task_problems(key: str, node: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the tasks of a node; reads no data."""
    if importlib.util.find_spec("mteb") is None:
        what = "this needs the package mteb, which is not installed."
        return [Problem(key, what, "Install it: pip install 'finetune[mteb]'")]
    try:
        find_tasks(node["tasks"], node["languages"], node["splits"], key)
    except CheckFailed as failed:
        return list(failed.problems)
    return []


def fetch_problems(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Read the data of a node's tasks, which downloads what is not here yet, and yield why that cannot be had."""
    for task in find_tasks(node["tasks"], node["languages"], node["splits"], key):
        try:
            load(task)
        except FinetuneError as error:
            yield Problem(f"{key}.tasks", error.what, error.advice)
            return  # without a network each of them would be waited for
        yield from _missing_splits(task, f"{key}.splits")
        unload(task)


def load(task: AbsTask) -> None:
    """Read the data of a task, or of those that it is made of.

    Raises:
        FinetuneError: it cannot be had.
    """
    from datasets.exceptions import DatasetsError

    for part in parts(task):
        try:
            part.load_data()
        except (OSError, ValueError, DatasetsError) as error:
            what = f"the data of {part.metadata.name} cannot be had: {_first_line(error)}"
            raise FinetuneError(what, "Look at the network, or leave this task out.") from error


def unload(task: AbsTask) -> None:
    """Let go of the data of a task."""
    for part in parts(task):
        if part.data_loaded:
            part.unload_data()


def parts(task: AbsTask) -> list[AbsTask]:
    """Return the tasks that one is made of: mostly itself."""
    if not task.is_aggregate:
        return [task]
    return [part for inner in task.metadata.tasks for part in parts(inner)]  # type: ignore[attr-defined]


def _import() -> None:
    # It makes its cache when it is imported, in the home folder if it is not told another; here it is never used.
    os.environ.setdefault("MTEB_CACHE", str(Path(Cache().root) / "mteb"))
    importlib.import_module("mteb")


def _named(name: str, languages: Sequence[str] | None, key: str) -> Iterator[AbsTask]:
    from mteb import get_benchmark, get_benchmarks, get_task
    from mteb.get_tasks import TASK_LIST

    tasks = {task.metadata.name for task in TASK_LIST}
    benchmarks = {benchmark.name for benchmark in get_benchmarks()}
    if name in benchmarks:
        # Of a benchmark what has none of the languages is left out; of one task that is a mistake.
        every = (_speaking(task, languages, key) for task in get_benchmark(name).tasks)
        yield from (task for task, problem in every if problem is None)
        return
    if name in tasks:
        task = get_task(name)
    elif is_own(name):
        task = _own(name, key)
    else:
        advice = f"`mteb available-tasks` lists them; those of your own need {ALLOW}=your_package."
        near = did_you_mean(name, tasks | benchmarks)
        raise CheckFailed([Problem(key, f"MTEB has no task '{name}'.", near or advice)])
    task, problem = _speaking(task, languages, key)
    if problem is not None:
        raise CheckFailed([problem])
    yield task


def _own(name: str, key: str) -> AbsTask:
    from mteb.abstasks import AbsTask

    kind = import_target(name, key)
    if not (isinstance(kind, type) and issubclass(kind, AbsTask)):
        raise CheckFailed([Problem(key, f"{name} is no task of MTEB's.", "Derive it from one of mteb.abstasks.")])
    return kind()


def _speaking(task: AbsTask, languages: Sequence[str] | None, key: str) -> tuple[AbsTask, Problem | None]:
    if languages is None or task.is_aggregate:
        return task, None
    try:
        return task.filter_languages(languages, hf_subsets=task.hf_subsets), None
    except ValueError:
        there = ", ".join(task.metadata.languages[:20])
        where = f"{key.removesuffix('.tasks')}.languages"
        what = f"{task.metadata.name} has nothing in {', '.join(languages)}."
        return task, Problem(where, what, f"There are: {there}.")


def _unfit(task: AbsTask, key: str, chosen: bool) -> Iterator[Problem]:
    if chosen and task.is_aggregate:
        what = f"{task.metadata.name} is put together of tasks, of which no languages or splits can be chosen."
        yield Problem(key, what, f"Name those: {', '.join(part.metadata.name for part in parts(task))}")
    for part in parts(task):
        name, others = part.metadata.name, [kind for kind in part.metadata.modalities if kind != "text"]
        if others:
            yield Problem(key, f"{name} is of {' and '.join(others)}, and only texts are measured.", "Leave it out.")
        if part.metadata.dataset.get("trust_remote_code"):
            yield Problem(key, f"the data of {name} is made by code from the hub, which is not run.", "Leave it out.")


def _missing_splits(task: AbsTask, key: str) -> Iterator[Problem]:
    for part in parts(task):
        data: Any = part.dataset or {}
        there = data.get(part.hf_subsets[0], data)
        if missing := [split for split in part.eval_splits if there and split not in there]:
            advice = f"There are: {', '.join(map(str, there))}."
            yield Problem(key, f"{part.metadata.name} has no split {', '.join(missing)}.", advice)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
