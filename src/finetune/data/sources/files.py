"""Files as they lie on the disk: which there are, whether they change, and their bytes, unpacked with a limit."""

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

# Text becomes three to ten times smaller when it is packed, the dullest table some hundred times. What grows beyond
# both of these is a trick (or a mistake), and would fill memory or disk.
MOST_EXPANSION = 250
FREE_BYTES = 256 << 20


class Stamp(NamedTuple):
    """What changes when a file is written or replaced."""

    size: int
    modified: int
    inode: int


@dataclass(frozen=True)
class DataFile:
    """A file that can be read, as it was when it was first looked at; `shown` is what it is called in messages.

    `name` has the suffix that tells its format, without that of its compression.
    """

    path: Path
    shown: str
    stamp: Stamp
    compression: str | None

    @property
    def name(self) -> str:
        """The name without the suffix of its compression, in small letters."""
        name = Path(self.shown).name
        return unpacked_name(name) if self.compression else name.lower()

    def open(self) -> BinaryIO:
        """Open its content, unpacked.

        Raises:
            CheckFailed: it cannot be opened; reading raises it where the content is damaged or without end.
        """
        try:
            if self.compression is None:
                return self.path.open("rb")
            unpacked, packed = _unpack(self.path, self.compression)
        except OSError as error:
            fail_unreadable(self.shown, error)
        return io.BufferedReader(_Unpacked(unpacked, packed, self), 1 << 18)

    def start(self) -> bytes:
        """Return the first bytes of its content."""
        with self.open() as stream:
            return stream.read(START_BYTES)

    def has_changed(self) -> bool:
        """Whether it is no longer what it was when it was first looked at."""
        try:
            return stamp_of(self.path) != self.stamp
        except OSError:
            return True

    def fail_if_changed(self) -> None:
        """Refuse the file if it was changed since it was first looked at."""
        if self.has_changed():
            fail(self.shown, "was changed while it was being read.", "Start again when nothing writes to it any more.")


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of the file; raises `OSError`."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def find_file(path: Path, shown: str, key: str) -> DataFile:
    """Return the file at `path`.

    Raises:
        CheckFailed: it is not there, no ordinary file, or may not be read.
    """
    try:
        if path.is_dir():
            if not any(path.iterdir()):
                fail(key, f"the folder '{shown}' is empty.", "Name a data file, or a folder that holds data.")
            fail(key, f"'{shown}' is a folder.", f"Name the data file in it.{list_data_files(path)}")
        if not path.exists():
            fail(key, f"there is no file '{shown}'.", suggest_siblings(path))
        if not path.is_file():
            fail(key, f"'{shown}' is no ordinary file.", "Save the data to a file first.")
        stamp = stamp_of(path)
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        fail_unreadable(shown, error, key)
    except ValueError:  # a NUL in the path
        fail(key, f"{shown!r} is no path.", "Name a file.")
    return DataFile(
        path, shown, stamp, next((name for magic, name in COMPRESSIONS.items() if start[:6].startswith(magic)), None)
    )


def fail_unreadable(shown: str, error: OSError, key: str = "data.path") -> NoReturn:
    """Refuse a file that the system does not let us read."""
    fail(key, f"'{shown}' cannot be read: {error.strerror or error}.", "Check who may read it.", error)


def list_data_files(folder: Path) -> str:
    """Return a sentence that names the first data files in a folder, with a space in front; nothing without any."""
    known = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".txt"}
    names = sorted(file.name for file in folder.iterdir() if {suffix.lower() for suffix in file.suffixes[-2:]} & known)
    return f" It holds: {', '.join(names[:5])}." if names else ""


class ExpansionLimit:
    """Counts what comes out of a packed file, and refuses what grows without end."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.total = 0

    def add(self, size: int, read: int | None = None) -> None:
        """Count `size` more bytes, for which so far `read` bytes of the file were needed; without it, all of them."""
        self.total += size
        packed = max(1, self.file.stamp.size if read is None else read)
        if self.total > FREE_BYTES and self.total > MOST_EXPANSION * packed:
            what = f"grows to more than {MOST_EXPANSION} times its size when unpacked, past {self.total >> 20:,} MiB."
            fail(self.file.shown, what, "No real data do that. If yours do, unpack the file and name what comes out.")


def _unpack(path: Path, compression: str) -> tuple[IO[bytes], IO[bytes]]:
    """Return the unpacked content, and the file below it, whose position says how much of it was needed so far."""
    if compression == "zstd":
        import pyarrow as pa

        packed = pa.OSFile(str(path))
        return cast(IO[bytes], pa.CompressedInputStream(packed, compression)), cast(IO[bytes], packed)
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    raw = path.open("rb", buffering=0)
    return cast(IO[bytes], openers[compression](raw, "rb")), raw


class _Unpacked(io.RawIOBase):
    """The content of a packed file; damage in it and growth without end are told in words."""

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
            what = f"its {self._file.compression} data are damaged or cut off."
            fail(self._file.shown, what, "Copy or download the file again.", error)
        self._expansion.add(len(data), self._packed.tell())
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._packed.close()
        super().close()
