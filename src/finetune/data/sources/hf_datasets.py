"""Hugging Face data sets: folders of `save_to_disk` (read without the datasets library), the hub, objects in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import Head, Reading, ReadOptions, Source
from finetune.data.sources.columnar import ArrowFile, explain_damage, reading_of_table
from finetune.data.sources.errors import fail, first_line
from finetune.data.sources.file_source import FileSource
from finetune.data.sources.files import find_file
from finetune.data.sources.memory import TableSource, from_arrow

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.bad_rows import BadRows

TRAIN = "train"
SPLITS, STATE = "dataset_dict.json", "state.json"
# Errors of the datasets library and of what it uses, by name: it is not imported to read a saved data set.
_NOT_FOUND = {"DatasetNotFoundError", "RepositoryNotFoundError"}
_NO_CONNECTION = {
    "ConnectionError",
    "HTTPError",
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "TimeoutException",
}


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` is what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def open_saved_dataset(folder: Path, shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source of a saved data set: of several splits `train`, unless the path names the folder of one.

    Raises:
        CheckFailed: one of its files is damaged or missing.
    """
    if not (folder / STATE).is_file():
        splits = _read_json(folder / SPLITS, shown).get("splits") or []
        example = splits[0] if splits else TRAIN
        split = _choose_split(splits, shown, key, f"Name the folder of one: {key}={shown}/{example}.")
        folder, shown = folder / split, f"{shown}/{split}"
    state = _read_json(folder / STATE, shown)

    def open_arrow_files(names: Sequence[str]) -> FileSource:
        readers = [ArrowFile(find_file(folder / name, f"{shown}/{name}", key)) for name in names]
        return FileSource(readers, shown, options, "arrow")

    names = _file_names(state, "_data_files")
    if not names:
        fail(shown, f"its {STATE} names no data files.", "Save the data set again.")
    source = open_arrow_files(names)
    # Before version 2.0 a data set that was shuffled or filtered kept its order in separate files.
    indices = _file_names(state, "_indices_data_files") + _file_names(state, "_indices_files")
    if not indices:
        return source
    return ReorderedSource(source, open_arrow_files(indices))


class ReorderedSource:
    """The rows of a source selected and ordered by the row numbers that another source of one column holds."""

    def __init__(self, source: FileSource, order: FileSource) -> None:
        self.shown, self.base = source.shown, source.base
        self._source, self._order = source, order

    def head(self) -> Head:
        """Return the columns; the sample is of rows in their stored order."""
        return self._source.head()

    def fingerprint(self) -> str:
        """Return a digest of both sources."""
        return self._source.fingerprint()[:32] + self._order.fingerprint()[:32]

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return the columns in that order; the location of a row is its number in it."""
        rows = self._source.read(names, bad).table
        order = self._order.read(self._order.head().names[:1], bad).table.column(0)
        with explain_damage(self.shown, "Arrow"):
            return reading_of_table(self.shown, rows.take(order))


def from_dataset(dataset: Any) -> TableSource:
    """Return the source of a `datasets.Dataset`, in its own order; of a `DatasetDict` that of its split `train`.

    Raises:
        CheckFailed: it is a stream, or has no split of that name.
    """
    shown, key = "the data set", "data.path"
    if isinstance(dataset, dict):
        splits = [str(split) for split in dataset]
        dataset = dataset[_choose_split(splits, shown, key, f"Give one of them, as in data[{splits[:1]}].")]
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        fail(key, f"{shown} is a stream ({type(dataset).__name__}).", "Load it without streaming=True.")
    return from_arrow(_as_table(dataset), shown)


def _as_table(dataset: Any) -> pa.Table:
    # Slicing applies a selection or an order of rows (`select`, `shuffle`).
    table: pa.Table = dataset.with_format("arrow")[:]
    return table


def _read_json(path: Path, shown: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        fail(shown, f"its file {path.name} is missing or damaged.", "Save the data set again with save_to_disk.")
    return found


def _file_names(state: dict[str, Any], key: str) -> list[str]:
    """Return the names of files in the folder; a path to another folder in the state file is not followed."""
    entries = state.get(key) or []
    names = []
    for entry in entries:
        name = str(entry)
        if isinstance(entry, dict):
            name = entry.get("filename", "")
        if name:
            names.append(Path(name).name)
    return names


def _choose_split(splits: list[str], shown: str, key: str, advice: str) -> str:
    """Return the split `train`, or the only one."""
    if TRAIN in splits:
        return TRAIN
    if not splits:
        fail(key, f"'{shown}' has no split.", advice)
    if len(splits) > 1:
        fail(key, f"'{shown}' has no split '{TRAIN}', but {quoted_names(splits)}.", advice)
    return splits[0]


class HubSource:
    """A data set on the Hugging Face hub: `name`, `name:config` or `name:config:split`."""

    def __init__(self, identifier: str, key: str) -> None:
        self.shown = identifier
        self.base = Path()
        self._key = key
        self._loaded: TableSource | None = None

    def head(self) -> Head:
        """Return its columns and first rows; it is downloaded the first time."""
        return self._source().head()

    def fingerprint(self) -> str:
        """Return a digest of all of its values."""
        return self._source().fingerprint()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns."""
        return self._source().read(names, bad)

    def _source(self) -> TableSource:
        if self._loaded is None:
            self._loaded = self._load()
            self._loaded.shown = self.shown
        return self._loaded

    def _load(self) -> TableSource:
        name, _, rest = self.shown.partition(":")
        config, _, split = rest.partition(":")
        try:
            import datasets
        except ImportError as error:
            what = "data sets of the hub need the package datasets."
            fail(self._key, what, "Install it: pip install 'finetune[hub]'.", error)
        try:
            return from_arrow(_as_table(datasets.load_dataset(name, config or None, split=split or TRAIN)), self.shown)
        except Exception as error:  # the library raises errors of many types
            self._explain(error, name, config, split)

    def _explain(self, error: Exception, name: str, config: str, split: str) -> NoReturn:
        """Raise `CheckFailed` for an error of the datasets library."""
        reason = first_line(error, 200)
        error_types = {kind.__name__ for kind in type(error).__mro__}
        if error_types & _NOT_FOUND:
            what = f"there is no data set '{name}' on the Hugging Face hub, or it may not be read: {reason}."
            fail(self._key, what, "Look for its name there; for a private one log in with: hf auth login.", error)
        if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
            fail(self._key, f"'{name}' has several configs: {reason}.", f"Name one: {self._key}={name}:CONFIG.", error)
        if error_types & _NO_CONNECTION:
            what = f"the Hugging Face hub cannot be reached for '{name}': {reason}."
            advice = "Check the network, or save the data set to a folder on a machine with network access."
            fail(self._key, what, advice, error)
        if "split" in str(error).lower():
            what = f"'{name}' has no split '{split or TRAIN}': {reason}."
            fail(self._key, what, f"Name one: {self._key}={name}:{config or 'default'}:SPLIT.", error)
        fail(self._key, f"the data set '{name}' cannot be loaded: {reason}.", cause=error)
