"""What `finetune embed` can be told, its types, and the overrides of a command line as settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from finetune.config.annotations import mismatch
from finetune.config.overrides import parse
from finetune.config.suggest import did_you_mean
from finetune.config.types import NotEmptyText, PositiveInt, Range
from finetune.data.keys import keys_affecting
from finetune.data.settings import Data, default_values
from finetune.data.source import ReadOptions
from finetune.errors import CheckFailed, Problem

FileFormat = Literal["parquet", "arrow", "npy"]
Columns = str | int | list[str | int] | dict[str, str | int]
SHARD_ROWS = 32_768


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which rows are read and how; the keys of the `data` group of a run that concern this.

    `columns` is the column of the texts, a list of columns that are joined, or a mapping of `text`, `title` and `id`.
    """

    path: Any
    columns: Columns | None = None
    on_bad_rows: Literal["error", "skip"] = "error"
    limit: PositiveInt | None = None
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """How texts become vectors and where these are written.

    `prompt` names the prompt in front of each text. `keep` are columns that are stored next to the vectors. `device` is
    `auto` (all GPUs, else the CPU), a device, or a list of them with a process for each. `batch_tokens` is the number
    of tokens that are computed at a time.
    """

    out: NotEmptyText
    prompt: NotEmptyText | None = "document"
    dimensions: PositiveInt | None = None
    precision: Literal["float32", "int8", "binary"] = "float32"
    normalize: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: Annotated[int, Range(at_least=4)] | None = None
    batch_tokens: PositiveInt | Literal["auto"] = "auto"
    format: FileFormat = "parquet"
    shard_rows: PositiveInt = SHARD_ROWS
    keep: list[str] | NotEmptyText = field(default_factory=list)
    device: NotEmptyText | list[str] = "auto"

    @property
    def kept_columns(self) -> list[str]:
        """The names of `keep` as a list."""
        return [self.keep] if isinstance(self.keep, str) else list(self.keep)


def settings_of(overrides: Sequence[str]) -> tuple[DataSettings, EmbedSettings]:
    """Return the settings that `KEY=VALUE` words set.

    Raises:
        CheckFailed: with all problems: unknown keys, values that do not fit, `data.path` or `out` missing.
    """
    parsed, problems = parse(list(overrides))
    values: dict[str, Any] = {}
    for override in parsed:
        key = override.key_or_group
        if override.is_delete():
            problems.append(Problem(override.input_line or key, "nothing can be removed here.", "Leave it out."))
        else:
            values[key] = override.value()
    if problems:
        raise CheckFailed(problems)
    return checked_settings(values)


def checked_settings(values: Mapping[str, Any]) -> tuple[DataSettings, EmbedSettings]:
    """Return the settings of these values by key: `out`, `prompt`, ..., and `data.path`, `data.columns`, ...

    Raises:
        CheckFailed: with all problems.
    """
    flat = dict(_flattened(values))
    problems = list(_problems(flat))
    if problems:
        raise CheckFailed(problems)
    data = {key.removeprefix("data."): value for key, value in flat.items() if key.startswith("data.")}
    rest = {key: value for key, value in flat.items() if not key.startswith("data.")}
    parsing = {key: default_values()[key] for key in keys_affecting("parsing")}
    options = {key: data.pop(key, default) for key, default in parsing.items()}
    return DataSettings(**data, read=ReadOptions(**options)), EmbedSettings(**rest)


def settings_from(values: Mapping[str, Any], out: Path, device: str) -> EmbedSettings:
    """Return the settings in a manifest, for one more process on a device."""
    names = {each.name for each in fields(EmbedSettings)}
    kept = {name: value for name, value in values.items() if name in names}
    return EmbedSettings(**kept | {"out": str(out), "device": device})


def _flattened(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values by key, those of `data={path: x}` as `data.path`."""
    for key, value in values.items():
        if key == "data" and isinstance(value, Mapping):
            yield from ((f"data.{inner}", each) for inner, each in value.items())
        else:
            yield key, value


def _types() -> dict[str, Any]:
    types = get_type_hints(EmbedSettings, include_extras=True)
    of_data = get_type_hints(DataSettings, include_extras=True)
    of_run = get_type_hints(Data, include_extras=True)
    types |= {f"data.{name}": of_data[name] for name in ("path", "columns", "on_bad_rows", "limit")}
    types |= {f"data.{name}": of_run[name] for name in keys_affecting("parsing")}
    return types


def _problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    types = _types()
    path = values.get("data.path")
    if path is None or (isinstance(path, str) and not path):
        yield Problem("data.path", "is not set.", "Name the corpus: data.path=corpus.parquet")
    if values.get("out") is None:
        yield Problem("out", "is not set.", "Name the folder for the vectors: out=vectors")
    for key, value in values.items():
        if key not in types:
            used = ", ".join(types)
            yield Problem(key, "finetune embed has no such key.", did_you_mean(key, types) or f"There are: {used}.")
        elif (types[key] is not Any and value is not None) or key in _NOT_NULL:
            wrong = mismatch(value, types[key])
            if wrong is not None:
                yield Problem(key, f"{wrong}.")


_NOT_NULL = {each.name for each in fields(EmbedSettings)} - {"out", "prompt", "dimensions", "max_length"}
