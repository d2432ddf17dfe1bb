"""A valid CSV file through Arrow's streaming reader. A file with any fault is left to `csv_strict`."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from finetune.data.sources.csv_head import CsvHead
from finetune.data.sources.csv_text import Dialect, python_codec

BLOCK_BYTES = 4 << 20  # a file with a longer row is left to the strict reader
END = "end of file"


def read_fast(head: CsvHead, names: Sequence[str], max_cell_characters: int) -> tuple[pa.Table, bool] | None:
    """Return these columns as `large_string`, or None if any row is invalid.

    The second value is whether every line is a row, as there are no quotes.

    Raises:
        CheckFailed: the file is compressed and damaged.
    """
    parts = CsvParts(head, names, max_cell_characters)
    try:
        batches = list(parts)
    except NotCleanError:
        return None
    return pa.Table.from_batches(batches), parts.is_by_line


def is_clean(head: CsvHead, names: Sequence[str], max_cell_characters: int) -> CsvParts | None:
    """Return the parts of a file that were all read once and found valid, None if any row is invalid."""
    parts = CsvParts(head, names, max_cell_characters)
    try:
        for _ in parts:
            pass
    except NotCleanError:
        return None
    return parts


class NotCleanError(Exception):
    """A row is invalid: the file has to be read row by row."""


class CsvParts:
    """The rows of a file in parts, as `large_string`; each iteration reads the file again.

    `is_by_line` is whether every line is a row, as there are no quotes; it is known after the last part.
    """

    def __init__(self, head: CsvHead, names: Sequence[str], max_cell_characters: int) -> None:
        self._head, self._names, self._longest = head, list(names), max_cell_characters
        self.is_by_line = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the parts.

        Raises:
            NotCleanError: a row is invalid; parts may have been yielded before.
        """
        head = self._head
        if not head.dialect.delimiter.isascii():
            raise NotCleanError  # Arrow supports a single byte
        last: pa.RecordBatch | None = None
        try:
            with head.file.open() as file:
                text = Utf8Stream(file, head.encoding, _end(head), head.dialect)
                with pa.PythonFile(text, mode="r") as stream:
                    for batch in _parse(stream, text, head, self._names, self._longest):
                        if last is not None:
                            yield last
                        last = batch
        # Arrow passes on a UnicodeError or OSError of the file.
        except (pa.ArrowException, UnicodeError, OSError) as error:
            raise NotCleanError from error
        # An unclosed quote swallows the row that was added after the last one: Arrow does not report it.
        if not last or any(column[-1].as_py() != END for column in last.columns):
            raise NotCleanError
        self.is_by_line = not (text.has_quotes or head.dialect.escape)
        yield last.slice(0, len(last) - 1)


def _parse(
    stream: pa.PythonFile, text: Utf8Stream, head: CsvHead, names: Sequence[str], max_cell_characters: int
) -> Iterator[pa.RecordBatch]:
    """Yield the blocks that have rows; raises `NotCleanError` at the first one that is invalid."""
    column_names = None if head.named else head.names
    read_options = csv.ReadOptions(block_size=BLOCK_BYTES, skip_rows=head.lines_before, column_names=column_names)
    convert_options = csv.ConvertOptions(
        include_columns=list(names),
        column_types={name: pa.large_string() for name in names},
        strings_can_be_null=False,
    )
    with csv.open_csv(stream, read_options, _parse_options(head.dialect), convert_options) as reader:
        for batch in reader:
            if text.has_nul or text.has_quote_and_escape:
                raise NotCleanError
            quote = head.dialect.quote if text.has_quotes else ""
            if not all(_is_valid(column, quote, max_cell_characters) for column in batch.columns):
                raise NotCleanError
            if len(batch):
                yield batch.select(names)


def _parse_options(dialect: Dialect) -> csv.ParseOptions:
    return csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        escape_char=dialect.escape or False,
        newlines_in_values=bool(dialect.quote),
    )


def _is_valid(column: pa.Array, quote: str, max_cell_characters: int) -> bool:
    """Whether all cells of a column pass the checks of the strict reader."""
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    # A text never has more characters than bytes.
    if longest > max_cell_characters and pc.max(pc.utf8_length(column)).as_py() > max_cell_characters:
        return False
    if not quote:
        return True
    # A quote and a line end in one cell may be rows swallowed by an unclosed quote: only the raw text decides.
    quoted = column.filter(pc.match_substring(column, quote))
    return not pc.any(pc.match_substring_regex(quoted, r"[\r\n]")).as_py()


def _end(head: CsvHead) -> bytes:
    return ("\n" + head.dialect.delimiter.join([END] * len(head.names)) + "\n").encode()


class Utf8Stream:
    """A file in any encoding as UTF-8, with `tail` after its end, for Arrow to read.

    It records whether a NUL, a quote, or a quote followed by the escape character was anywhere in the part read so
    far. After a closing quote, as in `""\\a`, Arrow drops an escape character that Python's reader keeps.
    """

    def __init__(self, file: BinaryIO, encoding: str, tail: bytes, dialect: Dialect) -> None:
        self.file = file
        codec = python_codec(encoding)
        self.decoder: codecs.IncrementalDecoder | None = None
        if codec != "utf-8-sig":
            self.decoder = codecs.getincrementaldecoder(codec)()
        self.tail = tail
        self.quote = dialect.quote.encode()
        self.quote_and_escape = (dialect.quote + dialect.escape).encode() if dialect.escape else b""
        self.last = b""  # byte of the previous block
        self.has_nul = self.has_quotes = self.has_quote_and_escape = False
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Return about `size` bytes; nothing at the end."""
        if self.decoder is None:
            data = self.file.read(size)
            ended = not data
        else:
            data, ended = self._read_decoded(self.decoder, size)
        self.has_nul = self.has_nul or b"\0" in data
        self.has_quotes = self.has_quotes or (self.quote != b"" and self.quote in data)
        if self.quote_and_escape and self.quote_and_escape in self.last + data:
            self.has_quote_and_escape = True
        self.last = data[-1:]
        if ended:
            data, self.tail = data + self.tail, b""
        return data

    def _read_decoded(self, decoder: codecs.IncrementalDecoder, size: int) -> tuple[bytes, bool]:
        """Return the next block as UTF-8, and whether the file has ended."""
        while True:
            data = self.file.read(size)
            if not data:
                return decoder.decode(b"", final=True).encode(), True
            text = decoder.decode(data)
            # A block that ends inside a character may decode to nothing, which Arrow would read as the end.
            if text:
                return text.encode(), False

    def close(self) -> None:
        """Close this stream, not the file that it reads."""
        self.closed = True
