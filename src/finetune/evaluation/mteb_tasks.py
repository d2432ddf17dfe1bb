"""MTEB tasks by name: finding, validating and loading them; imports no torch."""

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
    """Return the tasks of these names, or of benchmarks of these names, each once; `key` is their config key.

    Raises:
        CheckFailed: with every unknown name, and every unsupported task.
    """
    _import_mteb()
    found: dict[str, AbsTask] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            tasks = list(_tasks_of(name, languages, f"{key}.tasks"))
        except CheckFailed as failed:
            problems += failed.problems
            continue
        for task in tasks:
            problems += _unsupported(task, f"{key}.tasks", bool(languages or splits))
            found[task.metadata.name] = task.filter_eval_splits(splits) if splits else task
    if problems:
        raise CheckFailed(problems)
    return list(found.values())


def task_problems(key: str, node: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of the tasks of a config node; loads no data."""
    if importlib.util.find_spec("mteb") is None:
        what = "this needs the package mteb, which is not installed."
        return [Problem(key, what, "Install it: pip install 'finetune[mteb]'")]
    try:
        find_tasks(node["tasks"], node["languages"], node["splits"], key)
    except CheckFailed as failed:
        return list(failed.problems)
    return []


def fetch_problems(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Load the data of a node's tasks, downloading what is missing, and yield the problems of that."""
    for task in find_tasks(node["tasks"], node["languages"], node["splits"], key):
        try:
            load_task_data(task)
        except FinetuneError as error:
            yield Problem(f"{key}.tasks", error.what, error.advice)
            return  # without a network, each further task would wait for a timeout
        yield from _missing_splits(task, f"{key}.splits")
        unload_task_data(task)


def load_task_data(task: AbsTask) -> None:
    """Load the data of a task, or of its subtasks.

    Raises:
        FinetuneError: it cannot be loaded.
    """
    from datasets.exceptions import DatasetsError

    for part in subtasks(task):
        try:
            part.load_data()
        except (OSError, ValueError, DatasetsError) as error:
            what = f"the data of {part.metadata.name} cannot be loaded: {_first_line(error)}"
            raise FinetuneError(what, "Check the network, or remove this task.") from error


def unload_task_data(task: AbsTask) -> None:
    """Release the data of a task."""
    for part in subtasks(task):
        if part.data_loaded:
            part.unload_data()


def subtasks(task: AbsTask) -> list[AbsTask]:
    """Return the tasks that an aggregate task consists of; any other task is its only subtask."""
    if not task.is_aggregate:
        return [task]
    return [part for inner in task.metadata.tasks for part in subtasks(inner)]  # type: ignore[attr-defined]


def _import_mteb() -> None:
    # mteb creates its cache folder on import, by default in the home folder; finetune never uses it.
    os.environ.setdefault("MTEB_CACHE", str(Path(Cache().root) / "mteb"))
    importlib.import_module("mteb")


def _tasks_of(name: str, languages: Sequence[str] | None, key: str) -> Iterator[AbsTask]:
    from mteb import get_benchmark, get_benchmarks, get_task
    from mteb.get_tasks import TASK_LIST

    tasks = {task.metadata.name for task in TASK_LIST}
    benchmarks = {benchmark.name for benchmark in get_benchmarks()}
    if name in benchmarks:
        # Tasks of a benchmark without any of the languages are skipped; for a single task that is an error.
        for each in get_benchmark(name).tasks:
            task, problem = _in_languages(each, languages, key)
            if problem is None:
                yield task
        return
    if name in tasks:
        task = get_task(name)
    elif is_own(name):
        task = _custom_task(name, key)
    else:
        advice = f"`mteb available-tasks` lists all tasks; your own tasks need {ALLOW}=your_package."
        raise CheckFailed(
            [Problem(key, f"MTEB has no task '{name}'.", did_you_mean(name, tasks | benchmarks) or advice)]
        )
    task, problem = _in_languages(task, languages, key)
    if problem is not None:
        raise CheckFailed([problem])
    yield task


def _custom_task(name: str, key: str) -> AbsTask:
    from mteb.abstasks import AbsTask

    task_class = import_target(name, key)
    if not (isinstance(task_class, type) and issubclass(task_class, AbsTask)):
        raise CheckFailed([Problem(key, f"{name} is not an MTEB task.", "Derive it from a class of mteb.abstasks.")])
    return task_class()


def _in_languages(task: AbsTask, languages: Sequence[str] | None, key: str) -> tuple[AbsTask, Problem | None]:
    if languages is None or task.is_aggregate:
        return task, None
    try:
        return task.filter_languages(languages, hf_subsets=task.hf_subsets), None
    except ValueError:
        available = ", ".join(task.metadata.languages[:20])
        languages_key = f"{key.removesuffix('.tasks')}.languages"
        what = f"{task.metadata.name} has no data in {', '.join(languages)}."
        return task, Problem(languages_key, what, f"There are: {available}.")


def _unsupported(task: AbsTask, key: str, is_filtered: bool) -> Iterator[Problem]:
    """Yield why a task cannot be run; `is_filtered` is whether languages or splits are selected."""
    if is_filtered and task.is_aggregate:
        names = ", ".join(part.metadata.name for part in subtasks(task))
        what = f"{task.metadata.name} is an aggregate of tasks, whose languages and splits cannot be selected."
        yield Problem(key, what, f"Name its tasks instead: {names}")
    for part in subtasks(task):
        name, others = part.metadata.name, [kind for kind in part.metadata.modalities if kind != "text"]
        if others:
            yield Problem(key, f"{name} is a task on {' and '.join(others)}, and only text is supported.", "Remove it.")
        if part.metadata.dataset.get("trust_remote_code"):
            yield Problem(key, f"the data of {name} needs code from the hub, which is not run.", "Remove it.")


def _missing_splits(task: AbsTask, key: str) -> Iterator[Problem]:
    for part in subtasks(task):
        data: Any = part.dataset or {}
        splits = data.get(part.hf_subsets[0], data)
        missing = [split for split in part.eval_splits if splits and split not in splits]
        if missing:
            advice = f"There are: {', '.join(map(str, splits))}."
            yield Problem(key, f"{part.metadata.name} has no split {', '.join(missing)}.", advice)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
