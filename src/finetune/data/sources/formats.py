"""The format of a file, detected by its first bytes and its name."""

from __future__ import annotations

import codecs
import json
from contextlib import suppress

from finetune.config.quoting import typed
from finetune.data.source import ReadOptions
from finetune.data.sources.csv_text import python_codec
from finetune.data.sources.errors import fail
from finetune.data.sources.files import DataFile

KEY = "data.path"
FORMATS = {
    "csv": "CSV text",
    "jsonl": "JSON lines",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "vectors": "a NumPy array",
}
_READABLE = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow", b"\x93NUMPY": "vectors"}
_BY_SUFFIX = {
    **dict.fromkeys(("csv", "tsv", "tab", "psv"), "csv"),
    **dict.fromkeys(("jsonl", "ndjson", "json"), "jsonl"),
    **dict.fromkeys(("parquet", "pq"), "parquet"),
    **dict.fromkeys(("arrow", "feather", "ipc"), "arrow"),
    **dict.fromkeys(("npy", "npz"), "vectors"),
}
_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_OTHERS = {
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "an old Unix archive (.Z)",
    b"FEA1": "the old version of Feather",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"\x7fELF": "a program",
    b"\x89HDF": "an HDF5 file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"\x80\x04\x95": "a Python pickle",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh9": "bzip2",
    b"\xfd7zXZ": "xz",
}
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\x0b\x0c\x1b"))
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def format_of(file: DataFile, options: ReadOptions) -> str:
    """Return the format of a file: csv, jsonl, parquet, arrow or vectors.

    Raises:
        CheckFailed: it has an unsupported format, another one than `options.format`, or another encoding.
    """
    start = file.start()
    found = _binary(start, file, options)
    if found is None:
        _check_is_text(start, file.shown, options.encoding)
        _check_byte_order_mark(start, file.shown, options.encoding)
        found = _text(start, file, options)
    if options.format not in ("auto", found):
        what = f"'{file.shown}' is not {FORMATS.get(options.format, options.format)}; it looks like {FORMATS[found]}."
        fail("data.format", what, f"Set {typed('data.format', found)}.")
    return found


def _binary(start: bytes, file: DataFile, options: ReadOptions) -> str | None:
    """Return the format of a supported binary file, None for text."""
    if start.startswith(b"PK\x03\x04"):
        if file.name.endswith(".npz"):
            return "vectors"
        if b"xl/" in start or file.name.endswith((".xlsx", ".xlsm")):
            _fail_archive(file.shown, "an Excel workbook (xlsx)", is_archive=False)
        _fail_archive(file.shown, "zip", is_archive=True)
    if start[257:262] == b"ustar":
        _fail_archive(file.shown, "tar", is_archive=True)
    archive = _by_magic(start, _ARCHIVES)
    if archive is not None:
        _fail_archive(file.shown, archive, is_archive=True)
    found = _by_magic(start, _READABLE)
    if found and file.compression:
        what = f"'{file.shown}' is {FORMATS[found]} inside {file.compression}; such files have their own compression."
        fail(KEY, what, "Unpack it and name what comes out.")
    if found or _is_wide(start, options.encoding):
        return found
    wanted = _BY_SUFFIX.get(file.name.rpartition(".")[2])
    if wanted in ("parquet", "arrow") and options.format in ("auto", wanted) and not _reads_as_text(start):
        what = f"is not a {FORMATS[wanted]} file, although its name says so: its first bytes are different."
        fail(file.shown, what, "Copy or download it again.")
    return None


def _by_magic(start: bytes, magic: dict[bytes, str]) -> str | None:
    for mark, name in magic.items():
        if start.startswith(mark):
            return name
    return None


def _fail_archive(shown: str, kind: str, is_archive: bool) -> None:
    if is_archive:
        fail(KEY, f"'{shown}' is an archive ({kind}), which holds other files.", "Unpack it and name the file in it.")
    fail(KEY, f"'{shown}' is not a text file; it looks like {kind}.", "Save it as CSV text (UTF-8).")


def _reads_as_text(start: bytes) -> bool:
    return len(start) > 0 and len(start.translate(None, _CONTROLS)) == len(start)


def _is_wide(start: bytes, encoding: str) -> bool:
    # The byte-order marks of UTF-16 and UTF-32, and their many NULs, would look like binary data.
    return start.startswith(tuple(mark for mark, _ in _WIDE_MARKS)) or _codec(encoding).startswith(("utf-16", "utf-32"))


def _check_is_text(start: bytes, shown: str, encoding: str) -> None:
    if _is_wide(start, encoding):
        return
    kind = _by_magic(start, _OTHERS)
    if kind is not None:
        fail(KEY, f"'{shown}' is not a text file; it looks like {kind}.", "Save it as CSV text (UTF-8).")
    strange = len(start) - len(start.translate(None, _CONTROLS))
    # A single control character is a bad row; a tenth of them is not text; a few bytes are too few to decide.
    if len(start) >= 64 and strange > 0.1 * len(start):
        advice = "Save it as CSV text (UTF-8)."
        if start.count(0) > 0.3 * len(start):
            advice = "If it is text, try data.encoding=utf-16."
        fail(KEY, f"'{shown}' is not a text file: it is full of control characters.", advice)


def _codec(encoding: str) -> str:
    return codecs.lookup(encoding).name


def _check_byte_order_mark(start: bytes, shown: str, encoding: str) -> None:
    codec = _codec(encoding)
    for mark, name in _WIDE_MARKS:
        if start.startswith(mark):
            if not codec.startswith(name):
                what = f"'{shown}' begins with the byte-order mark of {name}, but data.encoding is {encoding}."
                fail("data.encoding", what, f"Set data.encoding={name}.")
            return
    if start.startswith(codecs.BOM_UTF8) and not codec.startswith("utf"):
        what = f"'{shown}' begins with the byte-order mark of utf-8, but data.encoding is {encoding}."
        fail("data.encoding", what, "Set data.encoding=utf-8.")


def _text(start: bytes, file: DataFile, options: ReadOptions) -> str:
    by_name = _BY_SUFFIX.get(file.name.rpartition(".")[2])
    text = start.decode(python_codec(options.encoding), "replace").lstrip()
    if options.format == "csv" and by_name != "csv" and _begins_object(text):
        return "jsonl"
    if options.format in ("csv", "jsonl"):
        if options.format == "jsonl" and text and by_name != "jsonl" and not text.startswith(("{", "[")):
            return "csv"
        return options.format
    if by_name in ("csv", "jsonl"):
        return by_name
    if _begins_object(text):
        return "jsonl"
    return "csv"


def _begins_object(text: str) -> bool:
    """Whether the text begins with a JSON object, or an array of them."""
    with suppress(ValueError, RecursionError):
        found, _ = json.JSONDecoder().raw_decode(text.removeprefix("[").lstrip())
        return isinstance(found, dict)
    return False
