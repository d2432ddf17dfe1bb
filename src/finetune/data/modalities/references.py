"""The bytes behind a value: a path, an http(s) URL, a data: URI, or the bytes themselves."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from finetune.data.modalities.downloads import Downloader
from finetune.data.modalities.options import Options, UnusableValue

Cell = str | bytes
_DATA = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def is_data_uri(cell: str) -> bool:
    """Whether the text is a data: URI."""
    return _DATA.match(cell) is not None


def url_scheme(cell: str) -> str | None:
    """Return `https` of a URL in small letters, None of what is no URL."""
    found = _URL.match(cell)
    return found[1].lower() if found else None


def absolute_path(cell: str, base: Path) -> str:
    """Return the absolute path that a path in the data means."""
    return str(base.absolute() / cell)


class ContentReader:
    """What is behind the values of one column, which are to be images or meshes (`kind`); paths start from `base`."""

    def __init__(self, kind: str, base: Path, options: Options) -> None:
        self.kind = kind
        self.base = base
        self.options = options
        self._downloads = Downloader(options)

    def get(self, cell: Cell) -> bytes:
        """Return the bytes behind a value.

        Raises:
            Unusable: nothing is there, or more than `options.most_bytes`.
        """
        if isinstance(cell, str):
            return self._get(cell)
        self._refuse_size(len(cell))
        return cell

    def _get(self, cell: str) -> bytes:
        if is_data_uri(cell):
            return self._decoded(cell)
        kind = url_scheme(cell)
        if kind in ("http", "https"):
            return self._downloads.get(cell)
        if kind is not None:
            raise UnusableValue("unreachable", f"URLs with {kind}:// are not read, only http:// and https://")
        return self._file(cell)

    def reference(self, cell: Cell, content: bytes, mime: str) -> str:
        """Return what is stored for a value: an absolute path, a URL, or a data: URI in its one canonical form."""
        if isinstance(cell, bytes) or is_data_uri(cell):
            return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
        return cell if url_scheme(cell) else absolute_path(cell, self.base)

    def _file(self, cell: str) -> bytes:
        path = absolute_path(cell, self.base)
        try:
            if self.options.root is not None:
                _refuse_outside(path, self.options.root)
            found = os.stat(path)  # noqa: PTH116 a Path for each of a million files takes as long as the look
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
                raise UnusableValue(
                    "missing", "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no ordinary file"
                )
            self._refuse_size(found.st_size)
            with open(path, "rb") as file:  # noqa: PTH123
                return file.read(found.st_size)
        except (FileNotFoundError, NotADirectoryError):
            raise UnusableValue("missing", "there is no such file") from None
        except OSError as error:
            raise UnusableValue("missing", f"it cannot be read ({error.strerror or error})") from error
        except ValueError:  # a NUL in it
            raise UnusableValue("missing", "it is no path") from None

    def _refuse_size(self, size: int) -> None:
        if size > self.options.most_bytes:
            raise UnusableValue(self.kind, f"it is larger than {self.options.most_bytes >> 20} MiB")

    def _decoded(self, uri: str) -> bytes:
        self._refuse_size(len(uri) * 3 // 4)
        front, _, body = uri.partition(",")
        content = unquote_to_bytes(body)
        if not front.lower().endswith(";base64"):
            return content
        try:
            # Line breaks and left-out padding are common, and change nothing.
            plain = b"".join(content.split()).rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
            return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except binascii.Error:
            raise UnusableValue(self.kind, "its base64 text is damaged") from None


def _refuse_outside(path: str, root: Path) -> None:
    real, allowed = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, allowed]) != allowed:
        raise UnusableValue("missing", "the path leaves the folder of the data")
