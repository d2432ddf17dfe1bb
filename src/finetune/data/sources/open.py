"""From whatever holds the data to the source that reads it."""

from __future__ import annotations

import glob
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from finetune.config.suggest import did_you_mean
from finetune.data.bad_rows import cut
from finetune.data.beir_folder import beir_inside, beir_problem, is_beir, missing_parts, named_judgments
from finetune.data.extensions import kind_by_suffix
from finetune.data.paths import resolve
from finetune.data.sources.csv_file import CsvFile, check_dialect
from finetune.data.sources.errors import refuse
from finetune.data.sources.file_source import FileReader, FileSource
from finetune.data.sources.files import DataFile, data_files_in, look_at
from finetune.data.sources.formats import FORMATS, format_of
from finetune.data.sources.passages import Passages
from finetune.data.sources.remote import fetch, is_url, shown_url
from finetune.data.sources.source import ReadOptions, Source
from finetune.errors import CheckFailed, Problem
from finetune.runs.atomic import explained

KEY = "data.path"
ALL_FORMATS = ("auto", *FORMATS, "hub", "beir", "images", "meshes")
_FOLDERS = ("beir", "images", "meshes", "vectors")
_ENTRIES = 1000  # of a folder that are looked at to tell what it holds


def open_source(what: Any, options: ReadOptions, key: str = KEY) -> Source:
    """Return the source that reads `what`, its passages as texts (`passages.py`).

    `what` is a path, a URL or a pattern of them, a list of such, an open file, a frame of pandas or Polars, an Arrow
    table, a `datasets.Dataset`, a list of dicts, or a dict of columns. `key` is the setting that named it.

    Raises:
        CheckFailed: it cannot be had, or is nothing of all that; with everything that is wrong with the options.
    """
    options = replace(options, delimiter="\t") if options.delimiter == r"\t" else options
    problems = check_dialect(options) + _check_format(options.format)
    if problems:
        raise CheckFailed(problems)
    return Passages(_open(what, options, key))


def _open(what: Any, options: ReadOptions, key: str) -> Source:
    if isinstance(what, str | Path):
        return _open_paths([str(what)], options, key)
    if hasattr(what, "read") and not hasattr(what, "__arrow_c_stream__"):
        return _open_handle(what, options, key)
    if isinstance(what, Sequence) and what and all(isinstance(one, str | Path) for one in what):
        return _open_paths([str(one) for one in what], options, key)
    return _open_in_memory(what, key)


def _check_format(name: str) -> list[Problem]:
    if name in ALL_FORMATS:
        return []
    advice = did_you_mean(name, ALL_FORMATS) or f"There are: {', '.join(ALL_FORMATS)}."
    return [Problem("data.format", f"there is no format '{name}'.", advice)]


def _open_in_memory(what: Any, key: str) -> Source:
    """Return the source of an object, told by what it can do: none of the libraries is imported for it."""
    from finetune.data.sources import memory

    library = type(what).__module__.partition(".")[0]
    if library == "datasets" or any(base.__module__.startswith("datasets.") for base in type(what).__mro__):
        from finetune.data.sources.hf_datasets import from_dataset

        return from_dataset(what)
    if library == "pandas" and hasattr(what, "iloc") and hasattr(what, "columns"):
        return memory.from_pandas(what)
    if library == "polars" and hasattr(what, "collect"):
        what = what.collect()
    if hasattr(what, "__arrow_c_stream__") and not hasattr(what, "iloc"):
        return memory.from_arrow(what, f"the {library} {type(what).__name__}")
    if isinstance(what, Mapping):
        return memory.from_columns(what)
    if not isinstance(what, Sequence) or isinstance(what, bytes):
        shown = f"{type(what).__module__}.{type(what).__qualname__}".removeprefix("builtins.")
        advice = "Give a path, a frame, an Arrow table, a list of dicts, a dict of columns or an open file."
        refuse(key, f"an object of type {shown} holds no data that can be read.", advice)
    return memory.from_rows(what)


def _open_paths(paths: list[str], options: ReadOptions, key: str) -> Source:
    if options.format == "hub":
        return _open_hub(paths, key, options)
    found = [one for path in paths for one in _expand(path, key)]
    shown = shown_url(paths[0]) if len(paths) == 1 else f"{shown_url(paths[0])} and {len(paths) - 1} more"
    is_one = len(found) == 1
    if is_one and (found[0][0].is_dir() or options.format in _FOLDERS or _is_of_beir(found[0][0], options)):
        return _open_folder(*found[0], options, key)
    problems: list[Problem] = []
    files: list[DataFile] = []
    for path, name in found:
        try:
            files.append(look_at(path, name, key))
        except CheckFailed as failed:
            problems += failed.problems
    if problems:
        raise CheckFailed(problems)
    return _of_files(files, shown, options, key)


def _is_of_beir(path: Path, options: ReadOptions) -> bool:
    return options.format == "auto" and path.parent.name == "qrels" and named_judgments(path) is not None


def _expand(path: str, key: str) -> list[tuple[Path, str]]:
    """Return the files that a path, a URL or a pattern means, each with what it is called."""
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    if is_url(path) and not path.startswith("shipped://"):
        return fetch(path, key)
    found = resolve(path, key)
    try:
        is_there = found.exists()
    except (OSError, ValueError):
        is_there = False
    if is_there or not glob.has_magic(path) or path.startswith("shipped://"):
        return [(found, path)]
    matching = sorted(glob.glob(str(found), recursive=True))  # noqa: PTH207 as a shell reads a pattern
    matching = [one for one in matching if Path(one).is_file()] or matching
    if not matching:
        refuse(key, f"no file matches '{path}'.", "Check the pattern; ** stands for folders at any depth.")
    return [(Path(one), one) for one in matching]


def _open_hub(paths: list[str], key: str, options: ReadOptions) -> Source:
    from finetune.data.sources.hf_datasets import HubSource, is_saved, open_saved

    folder = Path(paths[0]).expanduser()
    if len(paths) > 1:
        refuse(key, "only one data set of the hub can be read at a time.", "Name several under data.sources.")
    return open_saved(folder, paths[0], options, key) if is_saved(folder) else HubSource(paths[0], key)


def _open_folder(path: Path, shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source of a folder, or of a file that its format makes one of a folder."""
    from finetune.data.sources.hf_datasets import is_saved, open_saved

    kind: str | None = options.format
    if kind in ("auto", "arrow") and is_saved(path):
        return open_saved(path, shown, options, key)
    if kind == "beir" or (kind == "auto" and (is_beir(path) or _is_of_beir(path, options))):
        from finetune.data.sources.beir_source import open_beir

        return open_beir(path, shown, key)
    kind = _what_is_in(path) if kind == "auto" else kind
    if kind in ("images", "meshes"):
        from finetune.data.sources.folders import open_folder

        return open_folder(path, shown, options, key)
    if kind == "vectors":
        from finetune.data.sources.vectors import open_vectors

        return open_vectors(path, shown, options, key)
    if (beir_inside(path) or len(missing_parts(path)) == 1) and (problem := beir_problem(path, shown, key)):
        raise CheckFailed([replace(problem, advice=f"{problem.advice}{data_files_in(path)}")])
    look_at(path, shown, key)  # says that it is a folder, and what is in it
    raise AssertionError("a folder was taken for a file")


def _what_is_in(folder: Path) -> str | None:
    """Return `images` or `meshes` for a folder that holds such files, itself or up to two levels below."""
    try:
        entries = islice((path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth)), _ENTRIES)
        return next((kind for path in entries if (kind := kind_by_suffix(path))), None)
    except OSError:
        return None


def _of_files(files: list[DataFile], shown: str, options: ReadOptions, key: str) -> Source:
    readers: list[FileReader] = []
    kinds = []
    for file in files:
        kinds.append(format_of(file, options))
        if kinds[-1] == "vectors":
            if len(files) > 1:
                refuse(key, f"'{file.shown}' is a NumPy array; only one can be read at a time.", "Name that one alone.")
            return _open_folder(file.path, file.shown, replace(options, format="vectors"), key)
        readers.append(_reader(file, kinds[-1], options, readers))
    return FileSource(readers, shown, options, " ".join(kinds))


def _reader(file: DataFile, kind: str, options: ReadOptions, before: list[FileReader]) -> FileReader:
    if kind == "csv":
        like = next((reader for reader in before if isinstance(reader, CsvFile)), None)
        return CsvFile(file, options, like)
    if kind == "jsonl":
        from finetune.data.sources.jsonl import JsonFile

        return JsonFile(file, options)
    from finetune.data.sources.columnar import ArrowFile, ParquetFile

    return ParquetFile(file) if kind == "parquet" else ArrowFile(file)


def _open_handle(handle: IO[Any], options: ReadOptions, key: str) -> Source:
    """Return the source of what an open file still has to give: it is read once, to a file of our own."""
    name = getattr(handle, "name", None)
    shown = name if isinstance(name, str) else "the open file"
    folder = Path(tempfile.mkdtemp(prefix="finetune-"))
    path = folder / "data"
    try:
        with explained(f"write {path}"), path.open("wb") as copy:
            is_text = _copy(handle, copy, shown, key)
        options = replace(options, encoding="utf-8") if is_text else options
        source = _of_files([look_at(path, shown, key)], shown, options, key)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    source.base = Path(shown).parent if isinstance(name, str) else Path()
    weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
    return source


def _copy(handle: IO[Any], copy: IO[bytes], shown: str, key: str) -> bool:
    """Copy what is left to read; returns whether it came as text."""
    is_text = False
    try:
        while data := handle.read(1 << 20):
            is_text = isinstance(data, str)
            copy.write(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    except (ValueError, OSError, EOFError) as error:
        refuse(key, f"{shown} cannot be read: {cut(str(error), 100)}.", "Open it again, and give it unread.", error)
    return is_text
