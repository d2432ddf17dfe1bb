"""Files at URLs: downloaded once through fsspec, then read as local files."""

from __future__ import annotations

import atexit
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from finetune.data.cache.store import Cache, CacheUnavailable
from finetune.data.sources.errors import fail, first_line
from finetune.runs.atomic import explained

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_COPY_BYTES = 1 << 20
_CONNECT_SECONDS, _SILENT_SECONDS = 15, 60
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
PACKAGES |= {"abfs": "adlfs", "az": "adlfs", "hf": "huggingface_hub", "sftp": "paramiko", "ssh": "paramiko"}
# Properties that identify a version of a file, by the names that fsspec file systems use.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "md5Hash", "updated", "created")


def is_url(path: str) -> bool:
    """Whether `path` is a URL, with a scheme of two letters or more: one letter is a drive."""
    return _URL.match(path) is not None


def redacted_url(url: str) -> str:
    """Return a URL that can be printed: without a password, and without a query, which may contain keys."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch(url: str, key: str) -> list[tuple[Path, str]]:
    """Return local copies of the files that a URL, or a pattern of URLs, matches, with their names in messages.

    Raises:
        CheckFailed: the server does not answer, the file is missing, or a package is not installed.
    """
    shown = redacted_url(url)
    try:
        system, path = _system(url)
        paths = sorted(system.glob(path)) if _is_pattern(url) else [path]
        found = [(path, system.info(path)) for path in paths]
    except Exception as error:  # each file system raises its own types
        _explain(error, shown, key)
    if not found:
        fail(key, f"no file matches '{shown}'.", "Check the pattern.")
    copies = []
    for path, info in found:
        if info.get("type") == "directory":
            advice = f"Name the files in it, as in {key}={shown.rstrip('/')}/*.parquet."
            fail(key, f"'{shown}' is a folder ('{path}').", advice)
        name = shown
        if _is_pattern(url):
            name = _url_of(path, urlsplit(url).scheme)
        copies.append((path, info, name))
    return [(_local_copy(system, path, info, name, key), name) for path, info, name in copies]


def _url_of(path: str, scheme: str) -> str:
    """Return the printable URL of a path that a file system returned."""
    if is_url(path):
        return redacted_url(path)
    return f"{scheme}://{path.lstrip('/')}"


def _is_pattern(url: str) -> bool:
    # A question mark begins the query of a web address.
    marks = "*[" if urlsplit(url).scheme.lower() in ("http", "https") else "*?["
    return any(mark in url for mark in marks)


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if urlsplit(url).scheme.lower() in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        options = {"client_kwargs": {"timeout": timeout}}
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, str(path)


def _local_copy(system: Any, path: str, info: dict[str, Any], shown: str, key: str) -> Path:
    """Return a copy in the cache, or a temporary one if the file has no property that identifies its version."""
    name = re.sub(r"[^\w.\-]", "_", PurePosixPath(urlsplit(shown).path).name) or "data"
    versions = {word: str(info[word]) for word in _VERSIONS if info.get(word)}

    def download(folder: Path) -> None:
        _download(system, path, info, folder / name, shown, key)

    if versions:
        digest = hashlib.sha256(repr((shown, info.get("size"), sorted(versions.items()))).encode()).hexdigest()
        try:
            return Cache().entry("downloads", digest, download) / name
        except CacheUnavailable:
            pass
    return _temporary(download) / name


def _temporary(fill: Callable[[Path], None]) -> Path:
    """Return a folder that is deleted when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="finetune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with explained(f"write to {folder}"):
        fill(folder)
    return folder


def _download(system: Any, path: str, info: dict[str, Any], target: Path, shown: str, key: str) -> None:
    with target.open("wb") as file:
        try:
            with system.open(path, "rb", block_size=8 << 20, cache_type="readahead") as stream:
                while data := stream.read(_COPY_BYTES):
                    file.write(data)
        except OSError as error:
            if error.filename == str(target) or error.errno in (28, 122):  # an error of the local disk
                raise
            _explain(error, shown, key)
        except Exception as error:
            _explain(error, shown, key)
    size = info.get("size")
    if size is not None and target.stat().st_size != size:
        what = f"the download of '{shown}' is incomplete: {target.stat().st_size:,} of {size:,} bytes."
        fail(key, what, "Try again.")


def _explain(error: Exception, shown: str, key: str) -> NoReturn:
    """Raise `CheckFailed` for an error of a file system."""
    scheme = urlsplit(shown).scheme.lower()
    # Some file systems wrap all errors in one type: the original error is its cause.
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = getattr(error, "status", None)
    reason = first_line(error)
    package = PACKAGES.get(scheme)
    if isinstance(error, ImportError) and package:
        fail(key, f"{scheme}:// needs the package {package}.", f"Install it: pip install {package}.", error)
    if isinstance(error, ImportError | ValueError) and "rotocol" in str(error):
        advice = "Supported are https, s3, gs, hf and the other protocols of fsspec."
        fail(key, f"there is no way to read '{scheme}://'.", advice, error)
    if isinstance(error, PermissionError) or status in (401, 403):
        fail(key, f"'{shown}' may not be read: {reason}.", "Log in there first, or make it public.", error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        fail(key, f"there is no file '{shown}'.", "Try it in a browser, or list its folder.", error)
    advice = "Try it in a browser, or download the file and give its path."
    fail(key, f"'{shown}' does not answer: {reason}.", advice, error)
