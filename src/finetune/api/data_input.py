"""The argument `data` of the API: a path, or data in memory, which becomes a file that a run can read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.paths import names_files
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.config.command_line import Arguments
    from finetune.data.sources.snapshot import Snapshot

_KEYS = ("data.path", "data.sources")


@contextmanager
def with_data(data: Any, arguments: Arguments) -> Iterator[Arguments]:
    """Provide the arguments with overrides that choose `data`; without data they are unchanged.

    Data in memory is a file inside the `with` block, and afterwards if a run uses it. Problems of that file are
    reported as those of the object.

    Raises:
        CheckFailed: the data is also chosen by an override, or holds no table; or what the block raised.
        RunError: the file cannot be written.
    """
    from finetune.api.local_dataset import LocalDataset
    from finetune.data.sources.snapshot import Snapshot, snapshot

    if isinstance(data, LocalDataset):
        arguments = replace(arguments, overrides=[*data.overrides, *arguments.overrides])
        data = data.content
    if data is None:
        yield arguments
        return
    _check_chosen_once(arguments)
    if names_files(data):
        yield _choose(arguments, data)
        return
    held = data if isinstance(data, Snapshot) else snapshot(data)
    with _as_file(held, arguments) as chosen:
        yield chosen


def as_corpus(data: Any) -> tuple[Any, dict[str, Any]]:
    """Return data as `finetune.embed.run.embed` takes it, and how it is read if `build_dataset` returned it.

    The columns of a data set are those of a training; a corpus has others.

    Raises:
        CheckFailed: it is a list of texts.
    """
    from finetune.api.local_dataset import LocalDataset
    from finetune.config.overrides import parse
    from finetune.data.bad_rows import cut
    from finetune.data.keys import keys_affecting
    from finetune.data.sources.snapshot import Snapshot

    options: dict[str, Any] = {}
    if names_files(data) and isinstance(data, list | tuple) and not any(map(_may_be_file, data)):
        what = f"a list of texts names files, and there is no file '{cut(str(data[0]))}'."
        advice = 'Give texts as rows, [{"text": "..."}], or as a column, {"text": texts}.'
        raise CheckFailed([Problem("data", what, advice)])
    if isinstance(data, LocalDataset):
        found = {each.key_or_group.removeprefix("data."): each.value() for each in parse(data.overrides)[0]}
        options = {key: found[key] for key in (*keys_affecting("parsing"), "on_bad_rows", "limit") if key in found}
        data = data.content
    if isinstance(data, Snapshot):
        data = data.table
    return data, options


def _may_be_file(path: str | Path) -> bool:
    return "://" in str(path) or glob.has_magic(str(path)) or os.path.exists(path)  # noqa: PTH110 False for any text


def _check_chosen_once(arguments: Arguments) -> None:
    from finetune.config.command_line import key_of

    for override in arguments.overrides:
        if key_of(override) in _KEYS:
            what = "the data is given twice, by this override and by the argument data."
            raise CheckFailed([Problem(override, what, "Leave one of the two out.")])


def _choose(arguments: Arguments, path: Any, *more: str) -> Arguments:
    from finetune.config.quoting import literal

    return replace(arguments, overrides=[*arguments.overrides, f"data.path={literal(path)}", *more])


@contextmanager
def _as_file(held: Snapshot, arguments: Arguments) -> Iterator[Arguments]:
    from finetune.config.check import check
    from finetune.runs.kept_data import kept

    chosen = _one_run(_choose(arguments, "data.parquet", "data.format=parquet"))  # the file has no name yet
    cfg = check(chosen.overrides, chosen.config_dir, chosen.config_name, multirun=chosen.multirun)
    with kept(Path(cfg.output_root), held.digest, held.write) as path:
        chosen = _choose(arguments, path, "data.format=parquet")
        try:
            _check_items(held, _one_run(chosen))
            yield chosen
        except CheckFailed as failed:
            problems = [_renamed(problem, str(path), held.shown) for problem in failed.problems]
            raise CheckFailed(problems) from None  # not with the name of the file


def _one_run(arguments: Arguments) -> Arguments:
    """Return the arguments of a run; of a sweep those of its first trial."""
    if not arguments.multirun:
        return arguments
    from finetune.sweep.search_space import read_search_space

    space = read_search_space(arguments)
    overrides, _ = (space.one_at_a_time() if space.is_search else space.grid())[0]
    return replace(arguments, overrides=overrides)


def _check_items(held: Snapshot, arguments: Arguments) -> None:
    """Raise CheckFailed if a column that should hold texts holds numbers."""
    from finetune.config.compose import compose
    from finetune.data.open_sources import open_with
    from finetune.data.settings import data_settings
    from finetune.data.sources.snapshot import number_problems

    cfg = compose(arguments.overrides, arguments.config_dir, arguments.config_name)
    for settings in data_settings(cfg).source_settings():
        problems = number_problems(held.table.schema, open_with(settings).roles.items, held.shown)
        if problems:
            raise CheckFailed(problems)


def _renamed(problem: Problem, path: str, shown: str) -> Problem:
    """Return a problem of a file as one of the object that it was written from."""
    where, what, advice = (text.replace(path, shown) for text in (problem.where, problem.what, problem.advice))
    return replace(problem, where=where, what=what, advice=advice)
