"""Opening data: the source for a path, a URL, a folder or an object in memory."""

from __future__ import annotations

import glob
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetune.config.home import expand_home
from finetune.config.suggest import did_you_mean
from finetune.data.bad_rows import cut
from finetune.data.beir_folder import beir_inside, beir_problem, is_beir, missing_parts, named_judgments
from finetune.data.extensions import kind_by_suffix
from finetune.data.paths import names_files, resolve
from finetune.data.source import ReadOptions, Source
from finetune.data.sources.csv_file import check_dialect
from finetune.data.sources.errors import fail
from finetune.data.sources.files import DataFile, find_file, list_data_files
from finetune.data.sources.formats import FORMATS
from finetune.data.sources.open_file import open_files
from finetune.data.sources.passages import Passages
from finetune.data.sources.remote import fetch, is_url, redacted_url
from finetune.errors import CheckFailed, Problem
from finetune.runs.atomic import explained

if TYPE_CHECKING:
    from finetune.data.sources.memory import TableSource

KEY = "data.path"
ALL_FORMATS = ("auto", *FORMATS, "hub", "beir", "images", "meshes")
_FOLDERS = ("beir", "images", "meshes", "vectors")  # formats that `_open_folder` opens
_ENTRIES = 1000  # of a folder, at most, that are listed to detect what it holds


def open_source(what: Any, options: ReadOptions, key: str = KEY) -> Source:
    """Return the source that reads `what`, with passages converted to texts (`passages.py`).

    `what` is a path, a URL or a pattern of either, a list of these, an open file, a pandas or Polars data frame, an
    Arrow table, a `datasets.Dataset`, a list of dicts or of tuples, or a dict of columns. `key` is the setting that
    named it.

    Raises:
        CheckFailed: it is missing, cannot be read or has an unsupported type; or with all problems of the options.
    """
    if options.delimiter == r"\t":
        options = replace(options, delimiter="\t")
    problems = check_dialect(options) + _check_format(options.format)
    if problems:
        raise CheckFailed(problems)
    return Passages(_open(what, options, key))


def _open(what: Any, options: ReadOptions, key: str) -> Source:
    if isinstance(what, str | Path):
        return _open_paths([str(what)], options, key)
    if hasattr(what, "read") and not hasattr(what, "__arrow_c_stream__"):
        return _open_handle(what, options, key)
    if names_files(what):
        return _open_paths(list(map(str, what)), options, key)
    return open_in_memory(what, key)


def _check_format(name: str) -> list[Problem]:
    if name in ALL_FORMATS:
        return []
    advice = did_you_mean(name, ALL_FORMATS) or f"There are: {', '.join(ALL_FORMATS)}."
    return [Problem("data.format", f"there is no format '{name}'.", advice)]


def open_in_memory(what: Any, key: str = KEY) -> TableSource:
    """Return the source of an object, detected by its attributes: no library is imported for that.

    Raises:
        CheckFailed: it holds no table.
    """
    from finetune.data.sources import memory

    library = type(what).__module__.partition(".")[0]
    if library == "datasets" or any(base.__module__.startswith("datasets.") for base in type(what).__mro__):
        from finetune.data.sources.hf_datasets import from_dataset

        return from_dataset(what)
    if library == "pandas" and hasattr(what, "iloc") and hasattr(what, "columns"):
        return memory.from_pandas(what)
    if library == "polars" and hasattr(what, "collect"):
        what = what.collect()
    if library == "polars" and hasattr(what, "columns"):
        return memory.from_polars(what)
    if hasattr(what, "__arrow_c_stream__") and not hasattr(what, "iloc"):
        return memory.from_arrow(what, f"the {library} {type(what).__name__}")
    if isinstance(what, Mapping):
        return memory.from_columns(what)
    if not isinstance(what, Sequence) or isinstance(what, bytes):
        shown = f"{type(what).__module__}.{type(what).__qualname__}".removeprefix("builtins.")
        advice = "Give a path, a frame, an Arrow table, a list of dicts or tuples, or a dict of columns."
        fail(key, f"an object of type {shown} holds no data that can be read.", advice)
    return memory.from_rows(what)


def _open_paths(paths: list[str], options: ReadOptions, key: str) -> Source:
    if options.format == "hub":
        return _open_hub(paths, key, options)
    found = [file for path in paths for file in _expand(path, key)]
    if len(found) == 1:
        path, name = found[0]
        if path.is_dir() or options.format in _FOLDERS or _is_beir_judgments(path, options):
            return _open_folder(path, name, options, key)
    shown = redacted_url(paths[0])
    if len(paths) > 1:
        shown += f" and {len(paths) - 1} more"
    return open_files(_find_files(found, key), shown, options, key)


def _find_files(found: list[tuple[Path, str]], key: str) -> list[DataFile]:
    """Return the files at these paths; raises `CheckFailed` with the problems of all of them."""
    problems: list[Problem] = []
    files: list[DataFile] = []
    for path, name in found:
        try:
            files.append(find_file(path, name, key))
        except CheckFailed as failed:
            problems += failed.problems
    if problems:
        raise CheckFailed(problems)
    return files


def _is_beir_judgments(path: Path, options: ReadOptions) -> bool:
    return options.format == "auto" and path.parent.name == "qrels" and named_judgments(path) is not None


def _expand(path: str, key: str) -> list[tuple[Path, str]]:
    """Return the files that a path, a URL or a pattern matches, each with its name in messages."""
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    if is_url(path) and not path.startswith("shipped://"):
        return fetch(path, key)
    found = resolve(path, key)
    if _exists(found) or not glob.has_magic(path) or path.startswith("shipped://"):
        return [(found, path)]
    matching = sorted(glob.glob(str(found), recursive=True))  # noqa: PTH207 as a shell expands a pattern
    if not matching:
        fail(key, f"no file matches '{path}'.", "Check the pattern; ** matches folders at any depth.")
    files = [name for name in matching if Path(name).is_file()]
    return [(Path(name), name) for name in files or matching]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _open_hub(paths: list[str], key: str, options: ReadOptions) -> Source:
    from finetune.data.sources.hf_datasets import HubSource, is_saved_dataset, open_saved_dataset

    folder = expand_home(paths[0])
    if len(paths) > 1:
        fail(key, "only one data set of the hub can be read at a time.", "Name several under data.sources.")
    if is_saved_dataset(folder):
        return open_saved_dataset(folder, paths[0], options, key)
    return HubSource(paths[0], key)


def _open_folder(path: Path, shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source of a folder, or of a file whose format is opened like a folder."""
    from finetune.data.sources.hf_datasets import is_saved_dataset, open_saved_dataset

    kind: str | None = options.format
    if kind in ("auto", "arrow") and is_saved_dataset(path):
        return open_saved_dataset(path, shown, options, key)
    if kind == "beir" or (kind == "auto" and (is_beir(path) or _is_beir_judgments(path, options))):
        from finetune.data.sources.beir_source import open_beir

        return open_beir(path, shown, key)
    if kind == "auto":
        kind = _detect_content(path)
    if kind in ("images", "meshes"):
        from finetune.data.sources.folders import open_folder

        return open_folder(path, shown, options, key)
    if kind == "vectors":
        from finetune.data.sources.vectors import open_vectors

        return open_vectors(path, shown, key)
    if beir_inside(path) or len(missing_parts(path)) == 1:
        problem = beir_problem(path, shown, key)
        if problem is not None:
            raise CheckFailed([replace(problem, advice=f"{problem.advice}{list_data_files(path)}")])
    find_file(path, shown, key)  # raises: it is a folder, with the data files in it
    raise AssertionError("a folder was opened as a file")


def _detect_content(folder: Path) -> str | None:
    """Return `images` or `meshes` for a folder that holds such files, itself or up to two levels below."""
    entries = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))
    try:
        for path in islice(entries, _ENTRIES):
            kind = kind_by_suffix(path)
            if kind is not None:
                return kind
    except OSError:
        pass
    return None


def _open_handle(handle: IO[Any], options: ReadOptions, key: str) -> Source:
    """Return the source of the rest of an open file, which is read once, into a temporary file."""
    shown, base = "the open file", Path()
    name = getattr(handle, "name", None)
    if isinstance(name, str):
        shown, base = name, Path(name).parent
    folder = Path(tempfile.mkdtemp(prefix="finetune-"))
    path = folder / "data"
    try:
        with explained(f"write {path}"), path.open("wb") as copy:
            is_text = _copy(handle, copy, shown, key)
        if is_text:
            options = replace(options, encoding="utf-8")
        source = open_files([find_file(path, shown, key)], shown, options, key)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    source.base = base
    weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
    return source


def _copy(handle: IO[Any], copy: IO[bytes], shown: str, key: str) -> bool:
    """Copy the rest of an open file; returns whether it was opened as text."""
    is_text = False
    try:
        while data := handle.read(1 << 20):
            if isinstance(data, str):
                is_text = True
                data = data.encode("utf-8", "surrogatepass")
            copy.write(data)
    except (ValueError, OSError, EOFError) as error:
        fail(
            key,
            f"{shown} cannot be read: {cut(str(error), 100)}.",
            "Open it again, and pass it before reading from it.",
            error,
        )
    return is_text
