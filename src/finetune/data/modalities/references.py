"""Reading the bytes that a value refers to: a path, an http(s) URL, a data: URI, or the bytes themselves."""

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
    """Return the scheme of a URL, as `https`, in lower case; None for other texts."""
    found = _URL.match(cell)
    if found is None:
        return None
    return found[1].lower()


def absolute_path(cell: str, base: Path) -> str:
    """Return the absolute path of a path in the data."""
    return str(base.absolute() / cell)


class ContentReader:
    """Reads what the values of one column refer to, images or meshes (`kind`); paths are relative to `base`."""

    def __init__(self, kind: str, base: Path, options: Options) -> None:
        self.kind = kind
        self.base = base
        self.options = options
        self._downloads = Downloader(options)

    def get(self, cell: Cell) -> bytes:
        """Return the bytes that a value refers to.

        Raises:
            UnusableValue: they are missing, or more than `options.most_bytes`.
        """
        if isinstance(cell, str):
            return self._get(cell)
        self._check_size(len(cell))
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
                _check_inside(path, self.options.root)
            found = os.stat(path)  # noqa: PTH116 a Path object per file takes as long as the call
            if not stat.S_ISREG(found.st_mode):  # a pipe may block, a device has no end
                is_folder = stat.S_ISDIR(found.st_mode)
                raise UnusableValue("missing", "it is a folder" if is_folder else "it is not a regular file")
            self._check_size(found.st_size)
            with open(path, "rb") as file:  # noqa: PTH123
                return file.read(found.st_size)
        except (FileNotFoundError, NotADirectoryError):
            raise UnusableValue("missing", "there is no such file") from None
        except OSError as error:
            raise UnusableValue("missing", f"it cannot be read ({error.strerror or error})") from error
        except ValueError:  # it contains a NUL
            raise UnusableValue("missing", "it is not a valid path") from None

    def _check_size(self, size: int) -> None:
        if size > self.options.most_bytes:
            raise UnusableValue(self.kind, f"it is larger than {self.options.most_bytes >> 20} MiB")

    def _decoded(self, uri: str) -> bytes:
        self._check_size(len(uri) * 3 // 4)
        front, _, body = uri.partition(",")
        content = unquote_to_bytes(body)
        if not front.lower().endswith(";base64"):
            return content
        try:
            # Line breaks and missing padding are common, and harmless.
            plain = b"".join(content.split()).rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
            return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except binascii.Error:
            raise UnusableValue(self.kind, "its base64 text is damaged") from None


def _check_inside(path: str, root: Path) -> None:
    real, allowed = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, allowed]) != allowed:
        raise UnusableValue("missing", "the path leaves the folder of the data")
