"""What `data=…` builds: where the data is, what its columns are, how it is split and batched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from finetune.config.annotations import mismatch
from finetune.config.suggest import did_you_mean
from finetune.config.types import NotEmptyText, Positive, PositiveInt, Range
from finetune.data.beir_folder import WANTED, BeirFolder, is_beir, named_judgments, to_evaluate_on, why_not
from finetune.data.paths import resolve, suggest_siblings
from finetune.data.schema.column_spec import check_columns
from finetune.data.schema.layouts import Roles, find_roles
from finetune.data.sources import Head, ReadOptions, Source, open_source
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.data.batching.mixing import BatchSettings
    from finetune.data.dataset import Dataset

T = TypeVar("T")
HOW_TO_NAME = (
    "Name a file: data.path=pairs.csv, or several: 'data.sources={faq:{path:faq.csv},chat:{path:chat.jsonl}}'."
)
BESIDE = "evaluation"  # the folder that validation_path=auto looks for
Format = Literal["auto", "csv", "jsonl", "parquet", "arrow", "hub", "beir", "images", "meshes", "vectors"]
Kind = Literal["auto", "text", "image", "mesh", "vector"]
OnBadRows = Literal["error", "skip"]
Names = list[str | int] | dict[str, str | int | list[str]]
Scores = dict[str | int | float | bool, float | None]
# The keys that one of several sources may have for itself; what it leaves out is as for all.
OF_A_SOURCE: dict[str, Any] = {
    "path": NotEmptyText | list[str],
    "format": Format,
    "columns": Names | None,
    "labelled": bool,
    "header": bool | Literal["auto"],
    "delimiter": str,
    "decimal": str,
    "encoding": str,
    "modality": Kind | dict[str, Kind],
    "prompts": dict[str, str] | None,
    "transitive": bool | Literal["auto"],
    "score_values": Scores | None,
    "min_score": float | None,
    "weight": Positive,
    "batch_size": Annotated[int, Range(at_least=2)],
    "items_per_class": Annotated[int, Range(at_least=2)],
    "loss": dict[str, Any],
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """One source of data or several, and how to read, split and batch it; the keys are those of `conf/data/files.yaml`.

    Building it looks at nothing; `check_head` looks at the first rows, `load` at all of it. Only `load` imports NumPy
    and Arrow (for formats that do not need them to be looked at), so that a mistake elsewhere does not wait for them.
    `path` may also be a frame, a table, a list of dicts or an open file, when built from Python.
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

    def check_head(self) -> list[Problem]:
        """Return what is wrong with the settings, the first rows, or the validation folder; fast for any size."""
        problems: list[Problem] = []
        for source in attempt(self.each, problems) or self._sound_ones():
            attempt(source.look, problems)
        attempt(self.validation_folder, problems)
        return problems

    def _sound_ones(self) -> list[OneSource]:
        """Return those of several sources whose own settings are right, so that their files can be looked at too."""
        own = self.sources or {}
        return [self._one(name) for name in own if not [*_check_own(name, own[name])]]

    def _one(self, name: str) -> OneSource:
        own, known = (self.sources or {})[name], {each.name for each in fields(self)}
        return OneSource(name, replace(self, **{key: own[key] for key in own if key in known}), own)

    def load(self, seed: int = 42) -> Dataset:
        """Read everything and split it by `seed`.

        Raises:
            CheckFailed: with everything that is wrong.
        """
        from finetune.data.load import load

        return load(self, seed)

    def each(self) -> list[OneSource]:
        """Return the settings of each source, with what it has for itself.

        Raises:
            CheckFailed: a source has a key that there is not, or a value that does not fit.
        """
        if self.sources is None:
            return [OneSource("", self, None)]
        if self.path is not None:
            what = "is set, and data.sources has paths of its own."
            raise CheckFailed([Problem("data.path", what, "Set data.path=null, or leave data.sources out.")])
        if not self.sources:
            what = "names no source."
            raise CheckFailed([Problem("data.sources", what, HOW_TO_NAME)])
        problems = [problem for name, own in self.sources.items() for problem in _check_own(name, own)]
        problems += self._check_mixed()
        if problems:
            raise CheckFailed(problems)
        return [self._one(name) for name in self.sources]

    def _check_mixed(self) -> list[Problem]:
        """Return what cannot be where every batch is of all sources."""
        if self.one_source_per_batch:
            return []
        advice = "Set data.one_source_per_batch=true, or leave this out."
        what = "a batch of all sources has one loss and one size."
        own = [
            (name, key) for name, own in (self.sources or {}).items() for key in ("loss", "batch_size") if key in own
        ]
        problems = [Problem(f"data.sources.{name}.{key}", what, advice) for name, key in own]
        if self.unique:
            problems.append(Problem("data.unique", "is not kept where every batch is of all sources.", advice))
        return problems

    def batch_settings(self) -> BatchSettings:
        """Return how batches are made of what was loaded."""
        from finetune.data.batching.mixing import BatchSettings, SourceShare

        shares = []
        for name, own in (self.sources or {}).items():
            shares.append(SourceShare(name, own.get("weight"), own.get("batch_size"), own.get("items_per_class")))
        return BatchSettings(
            self.batch_size,
            self.unique,
            self.items_per_class,
            shares,
            self.mix_temperature,
            self.one_source_per_batch,
            self.encode_once,
        )

    def validation_folder(self) -> BeirFolder | None:
        """Return the folder to evaluate on, None for a held-out part."""
        if self.validation_path is None:
            return None
        if self.validation_path == "auto":
            if not isinstance(self.path, str) or "://" in self.path.replace("shipped://", ""):
                return None
            folder = resolve(self.path).parent / BESIDE
            if not is_beir(folder):
                return None
            return to_evaluate_on(folder, BESIDE, "data.validation_path", f"{BESIDE}/ next to the data file")
        folder = resolve(self.validation_path, "data.validation_path")
        if named_judgments(folder) is None and not folder.is_dir():
            missing = (
                f"there is no folder '{self.validation_path}'.",
                suggest_siblings(folder, only_beir=True) or WANTED,
            )
            what, advice = (f"'{self.validation_path}' is a file.", WANTED) if folder.exists() else missing
            raise CheckFailed([Problem("data.validation_path", what, advice)])
        if folder.is_dir() and (problem := why_not(folder, self.validation_path, "data.validation_path")):
            raise CheckFailed([problem])
        return to_evaluate_on(folder, self.validation_path, "data.validation_path")


def read(what: Any, *, seed: int = 42, **settings: Any) -> Dataset:
    """Return the data set in `what`: a path or several, a frame, a table, a list of dicts, an open file.

    `settings` are the keys of `conf/data/files.yaml`, with its defaults: `read(frame, columns=["question", "answer"])`.

    What was guessed and left out stands in the data set's `notes`.

    Raises:
        CheckFailed: with everything that is wrong; there is no such setting.
    """
    import yaml

    defaults = yaml.safe_load((files("finetune.conf") / "data" / "files.yaml").read_text(encoding="utf-8"))
    del defaults["_target_"]
    if unknown := [name for name in settings if name not in defaults]:
        advice = [did_you_mean(name, defaults) or f"There are: {', '.join(defaults)}." for name in unknown]
        raise CheckFailed(
            Problem(name, "there is no such setting.", how) for name, how in zip(unknown, advice, strict=True)
        )
    return Data(**{**defaults, "path": what, **settings}).load(seed)


@dataclass(frozen=True)
class OneSource:
    """The settings of one source; `name` is empty where there is only one, `own` what it has for itself."""

    name: str
    data: Data
    own: dict[str, Any] | None

    @property
    def options(self) -> ReadOptions:
        """How it is to be read."""
        data = self.data
        # On a command line a tab is easily written as the two characters \t.
        delimiter = "\t" if data.delimiter == r"\t" else data.delimiter
        return ReadOptions(data.format, data.header, delimiter, data.decimal, data.encoding, data.max_cell_characters)

    def look(self) -> tuple[Source, Head, Roles]:
        """Return the source, its first rows, and what its columns are.

        Raises:
            CheckFailed: with everything that is wrong, each at the key that says it.
        """
        columns = _as_text(self.data.columns)
        try:
            problems = [*check_columns(columns), *_check_prompts(self.data.prompts)]
            if self.data.path is None:
                problems.append(Problem("data.path", "is not set.", HOW_TO_NAME))
            if problems:
                raise CheckFailed(problems)
            source = open_source(self.data.path, self.options)
            head = source.head()
            roles = find_roles(
                head.names,
                head.sample,
                columns,
                named=head.named,
                labelled=self.data.labelled,
                scored=self.data.score_values is not None,
                notations=head.notations,
                decimal=self.data.decimal,
            )
        except CheckFailed as failed:
            raise CheckFailed(map(self.placed, failed.problems)) from failed
        return source, head, roles

    def placed(self, problem: Problem) -> Problem:
        """Return the problem at the key of this source, if it is at one of `data`."""
        if not self.name or not problem.where.startswith("data."):
            return problem
        return moved(problem, f"data.sources.{self.name}")


def moved(problem: Problem, key: str) -> Problem:
    """Return a problem of a key of `data` as one of the same key below `key`, with advice that can be typed."""

    def renamed(found: re.Match[str]) -> str:
        # A key that the source does not have yet takes ++.
        return f"++{key}.{found[1]}" if found[1] else f"{key}."

    advice = re.sub(r"(?<![\w.])data\.(\w+=)?", renamed, problem.advice)
    return replace(problem, where=f"{key}.{problem.where.removeprefix('data.')}", advice=advice)


def _check_own(name: str, own: object) -> Iterator[Problem]:
    where = f"data.sources.{name}"
    if not isinstance(own, dict):
        yield Problem(where, "expected the keys of a source.", f"As in {where}.path={name}.csv")
        return
    if "path" not in own:
        yield Problem(f"{where}.path", "is not set.", f"Name a file: {where}.path={name}.csv")
    for key, value in own.items():
        if key not in OF_A_SOURCE:
            advice = did_you_mean(key, OF_A_SOURCE) or f"A source has: {', '.join(OF_A_SOURCE)}."
            yield Problem(f"{where}.{key}", "one of several sources has no such key.", advice)
        elif (wrong := mismatch(value, OF_A_SOURCE[key])) is not None:
            yield Problem(f"{where}.{key}", f"{wrong}.")


def _check_prompts(prompts: dict[str, str] | None) -> list[Problem]:
    known = ("anchor", "query", "positive", "document")
    what, there = "there is no such role.", f"There are: {', '.join(known)}."
    return [
        Problem(f"data.prompts.{role}", what, did_you_mean(role, known) or there)
        for role in prompts or {}
        if role not in known
    ]


def _as_text(columns: Any) -> Any:
    """Return the names of columns as text: those of a table without a header are numbers."""
    if isinstance(columns, dict):
        return {role: _as_text(names) for role, names in columns.items()}
    if isinstance(columns, list):
        return [str(name) for name in columns]
    return columns if columns is None else str(columns)


def attempt(look: Callable[[], T], problems: list[Problem]) -> T | None:
    """Return what `look` returns; what it finds wrong is added to `problems`, so that the next can look too."""
    try:
        return look()
    except CheckFailed as failed:
        # Two looks can meet the same obstacle.
        problems += [problem for problem in failed.problems if problem not in problems]
        return None
