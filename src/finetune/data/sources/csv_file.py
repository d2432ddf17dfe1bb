"""One CSV file: read by Arrow if it is valid, else row by row; and the check of the settings for text files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.number_formats import DECLARED
from finetune.data.schema.number_formats import KEY as DECIMAL
from finetune.data.source import Head, Reading, ReadOptions
from finetune.data.sources.csv_head import CsvHead, read_head
from finetune.data.sources.files import DataFile
from finetune.errors import Problem

if TYPE_CHECKING:
    from finetune.data.arrays import Ints


class CsvFile:
    """One CSV file as a part of a source; `like` is the first of several files with the same columns."""

    def __init__(self, file: DataFile, options: ReadOptions, like: CsvFile | None = None) -> None:
        self.file = file
        self.options = options
        self.like = like

    @cached_property
    def csv_head(self) -> CsvHead:
        """The dialect and columns of the file."""
        return read_head(self.file, self.options, self.like.csv_head if self.like else None)

    def head(self) -> Head:
        """Return its columns and first rows; raises `CheckFailed`."""
        return self.csv_head.head()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns as `large_string`; raises `CheckFailed` where it cannot be read to its end."""
        from finetune.data.sources.csv_fast import read_fast
        from finetune.data.sources.csv_strict import line_numbers, read_strict

        head, longest = self.csv_head, self.options.max_cell_characters
        fast = read_fast(head, names, longest)
        if fast is not None:
            table, by_line = fast

            def locate_by_reading(numbers: Ints) -> list[RowLocation]:
                lines = line_numbers(head, numbers.tolist(), by_line)
                return [RowLocation(head.file.shown, line) for line in lines]

            return Reading(table, locate_by_reading, table.num_rows)
        strict = read_strict(head, names, longest, bad)

        def locate(numbers: Ints) -> list[RowLocation]:
            return [RowLocation(head.file.shown, strict.lines[number]) for number in numbers]

        return Reading(strict.table, locate, strict.rows_read)

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield the rows in parts if all are valid, for which the file is read twice; else all at once."""
        import pyarrow as pa

        from finetune.data.sources.csv_fast import is_clean
        from finetune.data.sources.csv_strict import line_numbers

        head = self.csv_head
        parts = is_clean(head, names, self.options.max_cell_characters)
        if parts is None:
            yield self.read(names, bad)
            return
        by_line, first = parts.is_by_line, 0
        for batch in parts:

            def locate(numbers: Ints, first: int = first) -> list[RowLocation]:
                lines = line_numbers(head, (numbers + first).tolist(), by_line)
                return [RowLocation(head.file.shown, line) for line in lines]

            yield Reading(pa.Table.from_batches([batch]), locate, len(batch))
            first += len(batch)


def check_dialect(options: ReadOptions) -> list[Problem]:
    """Return the problems of the settings for text files that do not depend on the files."""
    problems = []
    delimiter, encoding = options.delimiter, options.encoding
    if delimiter not in ("auto", "none") and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        what = f"must be one character that is neither a quote nor a line end, not {delimiter!r}."
        advice = 'Usual are "," ";" "|" and "\\t"; auto looks for it, none is for a file with one column.'
        problems.append(Problem("data.delimiter", what, advice))
    if options.header not in ("auto", True, False):
        problems.append(Problem("data.header", f"must be auto, true or false, not {options.header!r}."))
    if options.decimal not in ("auto", *DECLARED):
        what = f"must be auto, a point or a comma, not {options.decimal!r}."
        advice = "For 0,75 as Excel writes it in Germany or France: 'data.decimal=\",\"'"
        problems.append(Problem(DECIMAL, what, advice))
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError, TypeError):
        what = f"there is no text encoding '{encoding}'."
        problems.append(Problem("data.encoding", what, "Usual are utf-8, utf-16, cp1252 and latin-1."))
    return problems
