"""A clean CSV file through Arrow's parallel reader. Anything unclean is left to `csv_careful`, which tells it all."""

from __future__ import annotations

import codecs
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from finetune.data.csv_head import Head
from finetune.data.csv_text import python_codec
from finetune.data.roles import Roles

BLOCK_BYTES = 4 << 20  # a row longer than this is left to the careful reader
END = "end of file"


def read_fast(head: Head, roles: Roles, max_cell_characters: int) -> list[pa.ChunkedArray] | None:
    """Return the columns of `roles`, in order, or None if a single row is not as it should be.

    Cells are `large_string`; a blank negative is null.
    """
    if not head.delimiter.isascii():
        return None  # Arrow takes a single byte
    try:
        with head.path.open("rb") as file, pa.PythonFile(_Ended(file, head), mode="r") as source:
            table = _parse(source, head, roles)
    # A UnicodeError or OSError of the file below comes through Arrow as it was raised.
    except (pa.ArrowException, UnicodeError, OSError):
        return None
    # A quote that is never closed swallows the row that was added behind the last one: Arrow itself does not mind.
    if not len(table) or any(column[-1].as_py() != END for column in table.columns):
        return None
    anchor, positive, *negatives = [column.slice(0, len(column) - 1) for column in table.columns]
    negatives = [pc.if_else(_blank(column), None, column) for column in negatives]
    columns = [anchor, positive, *negatives]
    return columns if _all_good(columns, max_cell_characters) else None


def _parse(source: pa.PythonFile, head: Head, roles: Roles) -> pa.Table:
    return csv.read_csv(
        source,
        csv.ReadOptions(block_size=BLOCK_BYTES),
        csv.ParseOptions(delimiter=head.delimiter, newlines_in_values=True),
        csv.ConvertOptions(
            include_columns=roles.names,
            column_types={name: pa.large_string() for name in roles.names},
            strings_can_be_null=False,
        ),
    )


def _all_good(columns: list[pa.ChunkedArray], max_cell_characters: int) -> bool:
    """Hold every cell to the same rules as the careful reader, a column at a time."""
    anchor, positive, *negatives = columns
    bad = [_blank(anchor), _blank(positive), pc.equal(anchor, positive)]
    bad += [pc.equal(negative, positive) for negative in negatives]
    bad += [pc.match_substring(column, "\0") for column in columns]
    # A quote and a line end in one cell may be rows swallowed by a forgotten quote: only the raw text tells.
    bad += [pc.and_(pc.match_substring(c, '"'), pc.match_substring_regex(c, r"[\r\n]")) for c in columns]
    bad += [pc.greater(pc.utf8_length(column), max_cell_characters) for column in columns]
    return not any(pc.any(rows).as_py() for rows in bad)


def _blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.equal(pc.utf8_trim_whitespace(column), "")


class _Ended:
    """A file as UTF-8 with one more row behind its end, for Arrow to read."""

    def __init__(self, file: BinaryIO, head: Head) -> None:
        self.file = file
        codec = python_codec(head.encoding)
        self.decoder = None if codec == "utf-8-sig" else codecs.getincrementaldecoder(codec)()
        self.tail = ("\n" + head.delimiter.join([END] * len(head.header)) + "\n").encode()
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        ended = not data
        if self.decoder:
            # A block may end in the middle of a character and so decode to nothing, which would read as the end.
            while not ended and not (text := self.decoder.decode(data)):
                data = self.file.read(size)
                ended = not data
            data = self.decoder.decode(b"", final=True).encode() if ended else text.encode()
        if ended:
            data, self.tail = data + self.tail, b""
        return data

    def close(self) -> None:
        self.closed = True
