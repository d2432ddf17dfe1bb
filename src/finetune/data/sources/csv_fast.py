"""A clean CSV file through Arrow's streaming reader. Anything unclean is left to `csv_careful`, which tells it all."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from finetune.data.sources.csv_head import CsvHead
from finetune.data.sources.csv_text import Dialect, python_codec

BLOCK_BYTES = 4 << 20  # a row longer than this is left to the careful reader
END = "end of file"


def read_fast(head: CsvHead, names: Sequence[str], max_cell_characters: int) -> tuple[pa.Table, bool] | None:
    """Return these columns as `large_string`, or None if a single row is not as it should be.

    The second value says whether every line is a row, for there are no quotes.

    Raises:
        CheckFailed: the file is packed, and damaged.
    """
    if not head.dialect.delimiter.isascii():
        return None  # Arrow takes a single byte
    try:
        with head.file.open() as file:
            text = Utf8Stream(file, head.encoding, _end(head), head.dialect)
            with pa.PythonFile(text, mode="r") as stream:
                batches = _parse(stream, text, head, names, max_cell_characters)
    # A UnicodeError or OSError of the file below comes through Arrow as it was raised.
    except (pa.ArrowException, UnicodeError, OSError):
        return None
    table = pa.Table.from_batches(batches) if batches else None
    # A quote that is never closed swallows the row that was added behind the last one: Arrow itself does not mind.
    if not table or any(column[-1].as_py() != END for column in table.columns):
        return None
    return table.slice(0, len(table) - 1).select(list(names)), not (text.has_quotes or head.dialect.escape)


def _parse(
    stream: pa.PythonFile, text: Utf8Stream, head: CsvHead, names: Sequence[str], max_cell_characters: int
) -> list[pa.RecordBatch] | None:
    """Return the blocks, each looked at as it comes, so that a bad one far ahead of the end is found early."""
    batches = []
    with csv.open_csv(
        stream,
        csv.ReadOptions(
            block_size=BLOCK_BYTES, skip_rows=head.lines_before, column_names=None if head.named else head.names
        ),
        _parse_options(head.dialect),
        csv.ConvertOptions(
            include_columns=list(names),
            column_types={name: pa.large_string() for name in names},
            strings_can_be_null=False,
        ),
    ) as reader:
        for batch in reader:
            quote = head.dialect.quote if text.has_quotes else ""
            if (
                text.has_nul
                or text.has_quote_and_escape
                or not all(_all_good(column, quote, max_cell_characters) for column in batch.columns)
            ):
                return None
            batches.append(batch)
    return batches


def _parse_options(dialect: Dialect) -> csv.ParseOptions:
    return csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        escape_char=dialect.escape or False,
        newlines_in_values=bool(dialect.quote),
    )


def _all_good(column: pa.Array, quote: str, max_cell_characters: int) -> bool:
    """Hold every cell to the same rules as the careful reader, a column at a time."""
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    # No text has more characters than bytes.
    if longest > max_cell_characters and pc.max(pc.utf8_length(column)).as_py() > max_cell_characters:
        return False
    if not quote:
        return True
    # A quote and a line end in one cell may be rows swallowed by a forgotten quote: only the raw text tells.
    quoted = column.filter(pc.match_substring(column, quote))
    return not pc.any(pc.match_substring_regex(quoted, r"[\r\n]")).as_py()


def _end(head: CsvHead) -> bytes:
    return ("\n" + head.dialect.delimiter.join([END] * len(head.names)) + "\n").encode()


class Utf8Stream:
    """A file in any encoding as UTF-8, with `tail` behind its end, for Arrow to read.

    It notes whether the character NUL, a quote, or a quote with the escape character after it was anywhere in what was
    read so far. After a closing quote, as in `""\\a`, Arrow drops an escape character that Python's reader keeps.
    """

    def __init__(self, file: BinaryIO, encoding: str, tail: bytes, dialect: Dialect) -> None:
        self.file = file
        codec = python_codec(encoding)
        self.decoder = None if codec == "utf-8-sig" else codecs.getincrementaldecoder(codec)()
        self.tail = tail
        self.quote = dialect.quote.encode()
        self.quote_and_escape = (dialect.quote + dialect.escape).encode() if dialect.escape else b""
        self.last = b""  # of the block before
        self.has_nul = self.has_quotes = self.has_quote_and_escape = False
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Return about `size` bytes; nothing at the end."""
        data = self.file.read(size)
        ended = not data
        if self.decoder:
            # A block may end in the middle of a character and so decode to nothing, which would read as the end.
            while not ended and not (text := self.decoder.decode(data)):
                data = self.file.read(size)
                ended = not data
            data = self.decoder.decode(b"", final=True).encode() if ended else text.encode()
        self.has_nul = self.has_nul or b"\0" in data
        self.has_quotes = self.has_quotes or (self.quote != b"" and self.quote in data)
        if self.quote_and_escape and self.quote_and_escape in self.last + data:
            self.has_quote_and_escape = True
        self.last = data[-1:]
        if ended:
            data, self.tail = data + self.tail, b""
        return data

    def close(self) -> None:
        """Close this view; the file below is its owner's."""
        self.closed = True
