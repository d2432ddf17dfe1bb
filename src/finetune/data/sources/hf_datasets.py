"""Data sets of Hugging Face: folders of `save_to_disk` (read without their library), the hub, objects in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finetune.config.suggest import did_you_mean
from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import ReadOptions, Source
from finetune.data.sources.columnar import ArrowFile
from finetune.data.sources.errors import fail
from finetune.data.sources.file_source import FileSource
from finetune.data.sources.files import find_file
from finetune.data.sources.memory import TableSource, from_arrow

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN = "train"
SPLITS, STATE = "dataset_dict.json", "state.json"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` is what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def open_saved_dataset(folder: Path, shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source of a saved data set: of several splits `train`; another one is named as a folder.

    Raises:
        CheckFailed: a file of it is damaged or missing.
    """
    if not (folder / STATE).is_file():
        splits = _json(folder / SPLITS, shown).get("splits") or []
        split = _pick(splits, shown, key, f"Name the folder of one: {key}={shown}/{splits[0] if splits else TRAIN}.")
        folder, shown = folder / split, f"{shown}/{split}"
    state = _json(folder / STATE, shown)
    files = [find_file(folder / name, f"{shown}/{name}", key) for name in _file_names(state, "_data_files")]
    if not files:
        fail(shown, f"its {STATE} names no data files.", "Save the data set again.")
    source = FileSource([ArrowFile(file) for file in files], shown, options, "arrow")
    # Before version 2.0 a data set that was shuffled or filtered kept its order beside the data.
    indices = _file_names(state, "_indices_data_files") + _file_names(state, "_indices_files")
    if not indices:
        return source
    order = FileSource(
        [ArrowFile(find_file(folder / name, f"{shown}/{name}", key)) for name in indices], shown, options, "arrow"
    )
    return ReorderedSource(source, order)


class ReorderedSource:
    """The rows of a source in the order, and with the choice, that another one of one column says."""

    def __init__(self, source: FileSource, order: FileSource) -> None:
        self.shown, self.base = source.shown, source.base
        self._source, self._order = source, order

    def head(self) -> Any:
        """Return the columns; the sample is of rows as they are stored."""
        return self._source.head()

    def fingerprint(self) -> str:
        """Return a digest of both."""
        return self._source.fingerprint()[:32] + self._order.fingerprint()[:32]

    def read(self, names: Any, bad: Any) -> Any:
        """Return the columns in that order; a row stands at its number in it."""
        from finetune.data.sources.columnar import explain_damage, reading_of_table

        rows = self._source.read(names, bad).table
        order = self._order.read(self._order.head().names[:1], bad).table.column(0)
        with explain_damage(self.shown, "Arrow"):
            return reading_of_table(self.shown, rows.take(order))


def from_dataset(dataset: Any) -> TableSource:
    """Return the source of a `datasets.Dataset`, in its own order; of a `DatasetDict` its split `train`.

    Raises:
        CheckFailed: it has no rows to count, as a stream has not, or no split of that name.
    """
    shown, key = "the data set", "data.path"
    if isinstance(dataset, dict):
        splits = [str(split) for split in dataset]
        dataset = dataset[_pick(splits, shown, key, f"Give one of them, as in data[{splits[:1]}].")]
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        fail(key, f"{shown} is a stream ({type(dataset).__name__}).", "Load it without streaming=True.")
    return from_arrow(_as_table(dataset), shown)


def _as_table(dataset: Any) -> pa.Table:
    # Their own reading of a slice puts a choice or an order of rows (`select`, `shuffle`) into effect.
    table: pa.Table = dataset.with_format("arrow")[:]
    return table


def _json(path: Path, shown: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        fail(shown, f"its file {path.name} is missing or damaged.", "Save the data set again with save_to_disk.")
    return found


def _file_names(state: dict[str, Any], key: str) -> list[str]:
    """Return the names of files in the folder; a state that names a file elsewhere is not followed."""
    entries = state.get(key) or []
    names = [entry.get("filename", "") if isinstance(entry, dict) else str(entry) for entry in entries]
    return [Path(name).name for name in names if name]


def _pick(splits: list[str], shown: str, key: str, advice: str) -> str:
    if TRAIN not in splits and len(splits) != 1:
        there = f" '{TRAIN}', but {quoted_names(splits)}" if splits else ""
        fail(key, f"'{shown}' has no split{there}.", advice)
    return TRAIN if TRAIN in splits else splits[0]


class HubSource:
    """A data set on the Hugging Face hub: `name`, `name:config` or `name:config:split`."""

    def __init__(self, identifier: str, key: str) -> None:
        self.shown = identifier
        self.base = Path()
        self._key = key
        self._loaded: TableSource | None = None

    def head(self) -> Any:
        """Return its columns and first rows; the first time it is downloaded."""
        return self._source().head()

    def fingerprint(self) -> str:
        """Return a digest of all of its values."""
        return self._source().fingerprint()

    def read(self, names: Any, bad: Any) -> Any:
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
        # It raises whatever its many readers raise: what a person can do is in the message.
        except Exception as error:
            self._refuse(error, name, config, split)

    def _refuse(self, error: Exception, name: str, config: str, split: str) -> NoReturn:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        missing = {"DatasetNotFoundError", "RepositoryNotFoundError"}
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & missing:
            what = f"there is no data set '{name}' on the Hugging Face hub, or it may not be read: {reason}."
            fail(self._key, what, "Look for its name there; for a private one log in with: hf auth login.", error)
        if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
            fail(self._key, f"'{name}' has several configs: {reason}.", f"Name one: {self._key}={name}:CONFIG.", error)
        if kinds & {
            "ConnectionError",
            "HTTPError",
            "OfflineModeIsEnabled",
            "LocalEntryNotFoundError",
            "TimeoutException",
        }:
            what = f"the Hugging Face hub cannot be reached for '{name}': {reason}."
            fail(self._key, what, "Check the network, or save the data set to a folder where there is one.", error)
        if "split" in str(error).lower():
            asked = f"'{name}' has no split '{split or TRAIN}': {reason}."
            fail(self._key, asked, f"Name one: {self._key}={name}:{config or 'default'}:SPLIT.", error)
        fail(self._key, f"the data set '{name}' cannot be loaded: {reason}.", did_you_mean(name, []), error)
