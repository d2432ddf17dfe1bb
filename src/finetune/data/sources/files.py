"""Files on disk: finding them, detecting changes, and reading their bytes, decompressed up to a limit."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, NoReturn, cast

from finetune.data.extensions import unpacked_name
from finetune.data.paths import suggest_siblings
from finetune.data.sources.errors import fail

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
START_BYTES = 1 << 16

# Text compresses three to ten times, the most repetitive table some hundred times. A file that exceeds both of these is
# a decompression bomb (or a mistake), and would fill memory or disk.
MOST_EXPANSION = 250
FREE_BYTES = 256 << 20


class Stamp(NamedTuple):
    """Properties of a file that change when it is written or replaced."""

    size: int
    modified: int
    inode: int


@dataclass(frozen=True)
class DataFile:
    """A readable file and its state when it was found; `shown` is its name in messages.

    `name` has the suffix of its format, without that of its compression.
    """

    path: Path
    shown: str
    stamp: Stamp
    compression: str | None

    @property
    def name(self) -> str:
        """The name without the suffix of its compression, in lower case."""
        name = Path(self.shown).name
        if self.compression is not None:
            return unpacked_name(name)
        return name.lower()

    def open(self) -> BinaryIO:
        """Open its content, decompressed.

        Raises:
            CheckFailed: it cannot be opened; also while reading, if the content is damaged or expands without limit.
        """
        try:
            if self.compression is None:
                return self.path.open("rb")
            content, raw = _decompress(self.path, self.compression)
        except OSError as error:
            fail_unreadable(self.shown, error)
        return io.BufferedReader(_Decompressed(content, raw, self), 1 << 18)

    def start(self) -> bytes:
        """Return the first bytes of its content."""
        with self.open() as stream:
            return stream.read(START_BYTES)

    def has_changed(self) -> bool:
        """Whether the file has changed since it was found."""
        try:
            return stamp_of(self.path) != self.stamp
        except OSError:
            return True

    def fail_if_changed(self) -> None:
        """Raise `CheckFailed` if the file has changed since it was found."""
        if self.has_changed():
            fail(self.shown, "was changed while it was being read.", "Start again when nothing writes to it any more.")


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of the file; raises `OSError`."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def find_file(path: Path, shown: str, key: str) -> DataFile:
    """Return the file at `path`.

    Raises:
        CheckFailed: it is missing, not a regular file, or cannot be read.
    """
    try:
        if path.is_dir():
            if not any(path.iterdir()):
                fail(key, f"the folder '{shown}' is empty.", "Name a data file, or a folder that holds data.")
            fail(key, f"'{shown}' is a folder.", f"Name the data file in it.{list_data_files(path)}")
        if not path.exists():
            fail(key, f"there is no file '{shown}'.", suggest_siblings(path))
        if not path.is_file():
            fail(key, f"'{shown}' is not a regular file.", "Save the data to a file first.")
        stamp = stamp_of(path)
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        fail_unreadable(shown, error, key)
    except ValueError:  # a NUL in the path
        fail(key, f"{shown!r} is not a valid path.", "Name a file.")
    compression = next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), None)
    return DataFile(path, shown, stamp, compression)


def fail_unreadable(shown: str, error: OSError, key: str = "data.path") -> NoReturn:
    """Raise `CheckFailed` for a file that the operating system does not allow to read."""
    fail(key, f"'{shown}' cannot be read: {error.strerror or error}.", "Check its permissions.", error)


def list_data_files(folder: Path) -> str:
    """Return a sentence with the first data files in a folder, and a space in front; an empty text without any."""
    known = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".txt"}
    names = []
    for file in folder.iterdir():
        suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
        if not known.isdisjoint(suffixes):
            names.append(file.name)
    if not names:
        return ""
    return f" It holds: {', '.join(sorted(names)[:5])}."


class ExpansionLimit:
    """Counts the decompressed bytes of a file, and raises `CheckFailed` when they exceed the limit."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.total = 0

    def add(self, size: int, read: int | None = None) -> None:
        """Count `size` more bytes; `read` bytes of the compressed file were read so far, None for all of them."""
        self.total += size
        packed = max(1, self.file.stamp.size if read is None else read)
        if self.total > FREE_BYTES and self.total > MOST_EXPANSION * packed:
            what = f"grows to more than {MOST_EXPANSION} times its size when unpacked, past {self.total >> 20:,} MiB."
            fail(self.file.shown, what, "Real data do not. If yours do, unpack the file and name the result.")


def _decompress(path: Path, compression: str) -> tuple[IO[bytes], IO[bytes]]:
    """Return the decompressed content, and the compressed file, whose position is the number of bytes read."""
    if compression == "zstd":
        import pyarrow as pa

        packed = pa.OSFile(str(path))
        return cast(IO[bytes], pa.CompressedInputStream(packed, compression)), cast(IO[bytes], packed)
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    raw = path.open("rb", buffering=0)
    return cast(IO[bytes], openers[compression](raw, "rb")), raw


class _Decompressed(io.RawIOBase):
    """The content of a compressed file; raises `CheckFailed` if it is damaged or expands without limit."""

    def __init__(self, stream: IO[bytes], packed: IO[bytes], file: DataFile) -> None:
        self._stream = stream
        self._packed = packed
        self._file = file
        self._expansion = ExpansionLimit(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            what = f"its {self._file.compression} data are damaged or incomplete."
            fail(self._file.shown, what, "Copy or download the file again.", error)
        self._expansion.add(len(data), self._packed.tell())
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._packed.close()
        super().close()
