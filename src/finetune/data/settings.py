"""The settings of the `data` group: where the data is, what its columns are, how it is split and batched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from finetune.config.annotations import mismatch
from finetune.config.build import build
from finetune.config.suggest import did_you_mean
from finetune.config.types import NotEmptyText, Positive, PositiveInt, Range
from finetune.data.keys import keys_affecting, source_keys
from finetune.data.source import ReadOptions
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

NAME_A_FILE = (
    "Name a file: data.path=pairs.csv, or several: 'data.sources={faq:{path:faq.csv},chat:{path:chat.jsonl}}'."
)
Format = Literal["auto", "csv", "jsonl", "parquet", "arrow", "hub", "beir", "images", "meshes", "vectors"]
Kind = Literal["auto", "text", "image", "mesh", "vector"]
OnBadRows = Literal["error", "skip"]
Names = list[str | int] | dict[str, str | int | list[str]]
Scores = dict[str | int | float | bool, float | None]


@dataclass(frozen=True, kw_only=True)
class Data:
    """One source of data or several, and how to read, split and batch it; the keys are those of `conf/data/files.yaml`.

    Plain values, read from no file; `open_sources.check_head` checks the first rows, `load.load` reads everything.
    `path` may also be a data frame, a table, a list of dicts or an open file, when built from Python.
    `keys.KEYS` says what each key affects.
    """

    path: NotEmptyText | list[str] | None
    format: Format
    columns: Names | None
    labelled: bool
    header: bool | Literal["auto"]
    delimiter: str
    decimal: str
    encoding: str
    on_bad_rows: OnBadRows
    max_cell_characters: PositiveInt
    modality: Kind | dict[str, Kind]
    prompts: dict[str, str] | None
    transitive: bool | Literal["auto"]
    score_values: Scores | None
    min_score: float | None
    sources: dict[str, dict[str, Any]] | None
    mix_temperature: Positive | None
    one_source_per_batch: bool
    limit: Annotated[int, Range(at_least=2)] | None
    batch_size: Annotated[int, Range(at_least=2)]
    unique: bool
    encode_once: bool
    items_per_class: Annotated[int, Range(at_least=2)]
    max_length: Annotated[int, Range(at_least=4)]  # with fewer little but the special tokens is left
    validation_path: NotEmptyText | None
    validation_fraction: Annotated[float, Range(at_least=0, below=1)]
    near_leaks: bool
    cache: bool

    def source_settings(self) -> list[SourceSettings]:
        """Return the settings of each source, with those that it sets for itself.

        Raises:
            CheckFailed: a source has an unknown key, or a value that does not fit.
        """
        if self.sources is None:
            return [SourceSettings("", self, None)]
        if self.path is not None:
            what = "is set, and data.sources has paths of its own."
            raise CheckFailed([Problem("data.path", what, "Set data.path=null, or leave data.sources out.")])
        if not self.sources:
            raise CheckFailed([Problem("data.sources", "names no source.", NAME_A_FILE)])
        problems = [problem for name, own in self.sources.items() for problem in _check_own(name, own)]
        problems += self._check_mixed_batches()
        if problems:
            raise CheckFailed(problems)
        return [self._source(name) for name in self.sources]

    def valid_sources(self) -> list[SourceSettings]:
        """Return the settings of those of several sources that have nothing wrong with them."""
        sources = self.sources or {}
        return [self._source(name) for name, own in sources.items() if not list(_check_own(name, own))]

    def _source(self, name: str) -> SourceSettings:
        assert self.sources is not None
        own, shared = self.sources[name], {each.name for each in fields(self)}
        changes = {key: value for key, value in own.items() if key in shared}
        return SourceSettings(name, replace(self, **changes), own)

    def _check_mixed_batches(self) -> list[Problem]:
        """Return which settings are unsupported where every batch holds rows of all sources."""
        if self.one_source_per_batch:
            return []
        advice = "Set data.one_source_per_batch=true, or leave this out."
        what = "a batch of all sources has one loss and one size."
        problems = []
        for name, own in (self.sources or {}).items():
            for key in ("loss", "batch_size"):
                if key in own:
                    problems.append(Problem(f"data.sources.{name}.{key}", what, advice))
        if self.unique:
            problems.append(Problem("data.unique", "is not kept where every batch is of all sources.", advice))
        return problems


@dataclass(frozen=True)
class SourceSettings:
    """The settings of one source; `name` is empty where there is only one, `own` are those that it sets for itself."""

    name: str
    data: Data
    own: dict[str, Any] | None

    @property
    def read_options(self) -> ReadOptions:
        """How its files are parsed."""
        values = {key: getattr(self.data, key) for key in keys_affecting("parsing")}
        if values["delimiter"] == r"\t":  # on a command line a tab is easily written as these two characters
            values["delimiter"] = "\t"
        return ReadOptions(**values)

    def at_source(self, problem: Problem) -> Problem:
        """Return a problem of a key of `data` at the key of this source; any other problem as it is."""
        if not self.name or not problem.where.startswith("data."):
            return problem
        return move_problem(problem, f"data.sources.{self.name}")


def data_settings(cfg: DictConfig) -> Data:
    """Return the settings of the `data` group of a checked config."""
    settings: Data = build(cfg.data, "data")
    return settings


@cache
def _default_text() -> str:
    return (files("finetune.conf") / "data" / "files.yaml").read_text(encoding="utf-8")


def default_values() -> dict[str, Any]:
    """Return the defaults of `conf/data/files.yaml` by key."""
    import yaml

    values: dict[str, Any] = yaml.safe_load(_default_text())
    del values["_target_"]
    return values


@cache
def source_types() -> dict[str, Any]:
    """Return the type of each key that one of several sources may set; what it leaves out is as for all."""
    types = get_type_hints(Data, include_extras=True)
    types |= {"path": NotEmptyText | list[str], "weight": Positive, "loss": dict[str, Any]}
    return {key: types[key] for key in source_keys()}


def move_problem(problem: Problem, key: str) -> Problem:
    """Return a problem of a key of `data` as one of the same key below `key`, with advice that can be typed."""

    def renamed(found: re.Match[str]) -> str:
        if found[1]:
            return f"++{key}.{found[1]}"  # ++ since the source may not have the key yet
        return f"{key}."

    advice = re.sub(r"(?<![\w.])data\.(\w+=)?", renamed, problem.advice)
    return replace(problem, where=f"{key}.{problem.where.removeprefix('data.')}", advice=advice)


def _check_own(name: str, own: object) -> Iterator[Problem]:
    where = f"data.sources.{name}"
    if not isinstance(own, dict):
        yield Problem(where, "expected the keys of a source.", f"As in {where}.path={name}.csv")
        return
    if "path" not in own:
        yield Problem(f"{where}.path", "is not set.", f"Name a file: {where}.path={name}.csv")
    yield from check_values(own, source_types(), where, "one of several sources has no such key.", "A source has")


def check_values(
    values: Mapping[str, Any], types: Mapping[str, Any], where: str, unknown: str, available: str
) -> Iterator[Problem]:
    """Yield a problem for each key below `where` that is not among `types`, or whose value does not fit.

    `unknown` and `available` begin the two sentences about an unknown key.
    """
    for key, value in values.items():
        if key not in types:
            advice = did_you_mean(key, types) or f"{available}: {', '.join(types)}."
            yield Problem(f"{where}.{key}", unknown, advice)
            continue
        wrong = mismatch(value, types[key])
        if wrong is not None:
            yield Problem(f"{where}.{key}", f"{wrong}.")
