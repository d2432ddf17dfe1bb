"""Data files as one source: one file, or several with the same columns."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.source import ReadOptions, Source
from finetune.data.sources.csv_file import CsvFile
from finetune.data.sources.errors import fail
from finetune.data.sources.file_source import FileReader, FileSource
from finetune.data.sources.files import DataFile
from finetune.data.sources.formats import format_of


def open_files(files: Sequence[DataFile], shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source that reads these files one after the other; `shown` is its name in messages.

    Raises:
        CheckFailed: a file has an unsupported format, or a NumPy array is one of several files.
    """
    readers: list[FileReader] = []
    formats: list[str] = []
    for file in files:
        format = format_of(file, options)
        if format == "vectors":
            return _open_array(file, key, is_only_file=len(files) == 1)
        formats.append(format)
        readers.append(_reader(file, format, options, readers))
    return FileSource(readers, shown, options, " ".join(formats))


def _open_array(file: DataFile, key: str, is_only_file: bool) -> Source:
    from finetune.data.sources.vectors import open_vectors

    if not is_only_file:
        fail(key, f"'{file.shown}' is a NumPy array; only one can be read at a time.", "Name that one alone.")
    return open_vectors(file.path, file.shown, key)


def _reader(file: DataFile, format: str, options: ReadOptions, before: Sequence[FileReader]) -> FileReader:
    """Return the reader of one file; `before` are the readers of the files in front of it."""
    if format == "csv":
        first_csv = next((reader for reader in before if isinstance(reader, CsvFile)), None)
        return CsvFile(file, options, first_csv)
    if format == "jsonl":
        from finetune.data.sources.jsonl import JsonFile

        return JsonFile(file, options)
    from finetune.data.sources.columnar import ArrowFile, ParquetFile

    if format == "parquet":
        return ParquetFile(file)
    return ArrowFile(file)
