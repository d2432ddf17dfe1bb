"""The first rows of a JSON file: whether it has one row per line, and whether rows are objects or arrays.

A row is an object, or in a file of arrays an array such as `["a question", "its answer"]`: its values are columns by
position, as in a CSV file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from finetune.data.bad_rows import cut
from finetune.data.sources.csv_text import open_text, undecodable_byte
from finetune.data.sources.errors import fail
from finetune.data.sources.files import DataFile
from finetune.data.sources.header import has_header
from finetune.data.sources.json_text import InvalidJsonError, parse_value, read_values
from finetune.data.sources.type_inference import InvalidRow

HEAD_CHARACTERS = 1 << 20
HEAD_ROWS = 1000  # rows whose keys and types count


@dataclass(frozen=True)
class ArrayColumns:
    """The columns of rows that are arrays; `named`: the first row holds the names, else they are "1", "2", ..."""

    names: list[str]
    named: bool

    def row(self, value: Any) -> dict[str, Any] | InvalidRow:
        """Return a value of the file as a row by name, or its fault."""
        if isinstance(value, InvalidRow):
            return value
        if not isinstance(value, list):
            return InvalidRow("array", "is not a JSON array, as the other rows are", json.dumps(value))
        if len(value) != len(self.names):
            what = f"has {len(value)} values, the other rows have {len(self.names)}"
            return InvalidRow("array", what, json.dumps(value))
        return dict(zip(self.names, value, strict=True))


@dataclass(frozen=True)
class JsonHead:
    """The first rows of a file as objects, and whether it has one row per line; `arrays` where rows are arrays."""

    objects: list[dict[str, Any]]
    by_line: bool
    arrays: ArrayColumns | None = None


def read_json_head(file: DataFile, encoding: str, header: bool | str, allow_single: bool) -> JsonHead:
    """Read the start of a JSON file.

    `header` is the setting for rows that are arrays: true, false or auto. `allow_single`: a single object that holds
    other objects is a row, not a wrapper around rows; and the encoding is not a setting.

    Raises:
        CheckFailed: the file is empty, has no rows, or is in another encoding.
    """
    with open_text(file, encoding) as stream:
        text = stream.read(HEAD_CHARACTERS)
    start = text.lstrip()
    if not start:
        fail("data.path", f"'{file.shown}' is empty.", "Name a file with rows.")
    line_values = list(_values_by_line(text, is_whole=len(text) < HEAD_CHARACTERS))
    if not start.startswith("["):
        objects = _objects(line_values)
        if len(objects) == 1 and _holds_rows(objects[0]) and not allow_single:
            _fail_single_object(file, objects[0])
        if objects:
            return JsonHead(objects, by_line=True)
    elif len(line_values) > 1 and all(is_array_row(value) for value in line_values[:2]):
        return _head_of_arrays(line_values, header, by_line=True)
    _check_encoding(start[:1000], file, encoding, is_setting=not allow_single)
    found = _first_values(file, encoding)
    if is_array_row(found[0]):
        return _head_of_arrays(found, header, by_line=False)
    objects = _objects(found)
    if len(objects) == 1 and not start.startswith("[") and not allow_single:
        _fail_single_object(file, objects[0])
    return JsonHead(objects, by_line=False)


def is_array_row(value: Any) -> bool:
    """Whether a value is a row by position: a non-empty array that does not begin with an object."""
    return isinstance(value, list) and bool(value) and not isinstance(value[0], dict)


def infer_array_columns(rows: Sequence[list[Any]], header: bool | str) -> ArrayColumns:
    """Return the columns of a file by its first rows; `header` is the setting: true, false or auto."""
    width = Counter(map(len, rows)).most_common(1)[0][0]
    first = rows[0]
    named = header is True
    if header == "auto" and len(first) == width and all(isinstance(cell, str) for cell in first):
        named = has_header([_as_texts(row) for row in rows if len(row) == width]) is True
    names = [str(cell) for cell in first]
    if not named:
        names = [str(index + 1) for index in range(width)]
    return ArrayColumns(names, named)


def fail_invalid_json(file: DataFile, error: InvalidJsonError) -> NoReturn:
    """Raise `CheckFailed` for a file that cannot be parsed from a line on."""
    what = f"from here on it is not valid JSON ({error.what}): {cut(error.text)}"
    advice = "Fix it, or write one object per line (.jsonl), where invalid lines can be skipped."
    fail(f"{file.shown}:{error.line}", what, advice)


def _as_texts(row: list[Any]) -> list[str]:
    return ["" if cell is None or isinstance(cell, list | dict) else str(cell) for cell in row]


def _head_of_arrays(values: list[Any], header: bool | str, by_line: bool) -> JsonHead:
    arrays = infer_array_columns([value for value in values if isinstance(value, list)], header)
    rows = values[1:] if arrays.named else values
    return JsonHead(_objects(map(arrays.row, rows)), by_line, arrays)


def _objects(values: Iterator[Any] | Sequence[Any]) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _values_by_line(text: str, is_whole: bool) -> Iterator[Any]:
    """Yield the value of each of the first lines; lines that are not valid JSON are left out."""
    lines = text.split("\n")
    if not is_whole and len(lines) > 1:
        lines.pop()
    for line in lines[:HEAD_ROWS]:
        if not line.strip():
            continue
        value = parse_value(line)
        if not isinstance(value, InvalidRow):
            yield value


def _first_values(file: DataFile, encoding: str) -> list[Any]:
    """Return the first values that can be rows: objects and arrays."""
    found: list[Any] = []
    try:
        with open_text(file, encoding) as stream:
            for _, value in read_values(stream):
                if isinstance(value, dict) or is_array_row(value):
                    found.append(value)
                if len(found) == HEAD_ROWS:
                    break
    except InvalidJsonError as error:
        if not found:
            fail_invalid_json(file, error)
    if not found:
        what = "there is no JSON object in it, and no array for each row."
        fail(file.shown, what, 'It must hold objects, such as {"anchor": "..."}, or arrays: ["...", "..."].')
    return found


def _check_encoding(start: str, file: DataFile, encoding: str, is_setting: bool) -> None:
    byte = undecodable_byte(start)
    if byte is None:
        return
    what = f"'{file.shown}' has the byte 0x{byte:02X}, which is not {encoding}."
    if not is_setting:  # data.encoding does not apply to a BEIR folder
        fail(file.shown, what, "Save it as UTF-8.")
    fail("data.encoding", what, "Set data.encoding=cp1252 (Windows, Excel) or latin-1.")


def _holds_rows(found: dict[str, Any]) -> bool:
    """Whether an object looks like a wrapper around rows: it holds objects, or lists of them."""
    for value in found.values():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict):
            return True
    return False


def _fail_single_object(file: DataFile, found: dict[str, Any]) -> NoReturn:
    keys = ", ".join(f"'{cut(name, 20)}'" for name in list(found)[:5])
    what = f"holds a single JSON object, with the keys {keys}."
    fail(file.shown, what, "It must have one object for each row: a list of them, or one per line.")
