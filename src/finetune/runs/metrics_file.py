"""Reading and writing metrics.jsonl: one JSON object per line, with a `step` and the metrics logged at it."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

from finetune.runs.atomic import explain, explained, to_json, write_text_atomically
from finetune.runs.metrics import is_short_for, numbers


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append one line, unbuffered; NaN and infinities become null. Raises RunError."""
    line = to_json(record).encode("utf-8", "backslashreplace") + b"\n"
    with explained(f"write {path}"), path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            # A process killed while writing left an incomplete line; the new one must not be joined to it.
            if file.read(1) != b"\n":
                line = b"\n" + line
        # os.write to a nearly full disk writes a part, and raises only on the next call.
        while line:
            line = line[os.write(file.fileno(), line) :]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return all complete records, oldest first; empty if there is no file. Raises RunError."""
    try:
        return _parse_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain(error, f"read {path}") from error


def read_records_from(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the complete records after `offset` bytes, and the offset after the last of them. Raises RunError."""
    if not path.is_file():
        return [], 0
    with explained(f"read {path}"), path.open("rb") as file:
        # A resumed run removes the records that it writes again: the file may be shorter than before.
        if offset > os.fstat(file.fileno()).st_size:
            offset = 0
        file.seek(offset)
        complete, newline, _ = file.read().rpartition(b"\n")
    return _parse_lines(complete), offset + len(complete) + len(newline)


def remove_records_after(path: Path, step: int) -> None:
    """Remove the records after `step`. Raises RunError."""
    if path.exists():
        kept = [record for record in read_records(path) if (record.get("step") or 0) <= step]
        write_text_atomically(path, "".join(to_json(record) + "\n" for record in kept))


def last_value(path: Path, name: str) -> float | None:
    """Return the last value of a metric, searched from the end of the file; None if there is none.

    `name` is the full name, or the part after a slash: `nDCG@10` also matches `retrieval/after/nDCG@10`.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            value = _search_backwards(text, name, '"')
            if value is None:
                value = _search_backwards(text, name, "/")
            return value
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None


def _search_backwards(text: mmap.mmap, name: str, before: str) -> float | None:
    """Return the last value of a metric whose name is preceded by `before`: a quote (full name) or a slash."""
    needle = (before + to_json(name)[1:] + ":").encode("utf-8", "backslashreplace")
    found = text.rfind(needle)
    while found >= 0:
        line_start = text.rfind(b"\n", 0, found) + 1
        line_end = text.find(b"\n", found)
        if line_end < 0:
            line_end = len(text)
        for key, value in numbers(_parse_line(text[line_start:line_end])).items():
            if key == name or (before == "/" and is_short_for(name, key)):
                return value
        found = text.rfind(needle, 0, line_start)
    return None


def _parse_lines(text: bytes) -> list[dict[str, Any]]:
    records = []
    for line in text.splitlines():
        record = _parse_line(line)
        if record is not None:
            records.append(record)
    return records


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
