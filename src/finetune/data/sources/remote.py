"""Files behind URLs: downloaded once through fsspec, then read as files."""

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
from finetune.data.sources.errors import fail
from finetune.runs.atomic import explained

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_COPY_BYTES = 1 << 20
_CONNECT_SECONDS, _SILENT_SECONDS = 15, 60
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
PACKAGES |= {"abfs": "adlfs", "az": "adlfs", "hf": "huggingface_hub", "sftp": "paramiko", "ssh": "paramiko"}
# What tells one content behind a URL from another, by the names that file systems use.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "md5Hash", "updated", "created")


def is_url(path: str) -> bool:
    """Whether `path` is a URL, with a scheme of two letters or more: one is a drive."""
    return _URL.match(path) is not None


def redacted_url(url: str) -> str:
    """Return a URL as it may be printed: without a password, and without a query, where keys are."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch(url: str, key: str) -> list[tuple[Path, str]]:
    """Return local copies of the file or files that a URL, or a pattern of URLs, means, with what they are called.

    Raises:
        CheckFailed: it does not answer, has no such file, or needs a package that is not there.
    """
    shown = redacted_url(url)
    try:
        system, path = _system(url)
        paths = sorted(system.glob(path)) if _is_pattern(url) else [path]
        found = [(each, system.info(each)) for each in paths]
    except Exception as error:  # every file system raises its own
        _refuse(error, shown, key)
    if not found:
        fail(key, f"no file matches '{shown}'.", "Check the pattern.")
    if folder := next((path for path, info in found if info.get("type") == "directory"), None):
        fail(
            key,
            f"'{shown}' is a folder ('{folder}').",
            f"Name the files in it, as in {key}={shown.rstrip('/')}/*.parquet.",
        )
    scheme = urlsplit(url).scheme
    names = [shown] if not _is_pattern(url) else [_named(scheme, each) for each in paths]
    return [(_local(system, path, info, name, key), name) for (path, info), name in zip(found, names, strict=True)]


def _named(scheme: str, path: str) -> str:
    return redacted_url(path) if is_url(path) else f"{scheme}://{path.lstrip('/')}"


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


def _local(system: Any, path: str, info: dict[str, Any], shown: str, key: str) -> Path:
    """Return a copy in the cache, or a temporary one where nothing tells whether the content is still the same."""
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
    """Return a folder that is there until the program ends."""
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
            if error.filename == str(target) or error.errno in (28, 122):  # the disk here, not the server there
                raise
            _refuse(error, shown, key)
        except Exception as error:
            _refuse(error, shown, key)
    size = info.get("size")
    if size is not None and target.stat().st_size != size:
        what = f"'{shown}' broke off: {target.stat().st_size:,} of {size:,} bytes came."
        fail(key, what, "Try again.")


def _refuse(error: Exception, shown: str, key: str) -> NoReturn:
    scheme = urlsplit(shown).scheme.lower()
    # A file system makes one error of all that went wrong: what it was is behind it.
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = getattr(error, "status", None)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150].rstrip(".")
    package = PACKAGES.get(scheme)
    if isinstance(error, ImportError) and package:
        fail(key, f"{scheme}:// needs the package {package}.", f"Install it: pip install {package}.", error)
    if isinstance(error, ImportError | ValueError) and "rotocol" in str(error):
        fail(
            key, f"there is no way to read '{scheme}://'.", "Known are https, s3, gs, hf and what fsspec lists.", error
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        fail(key, f"'{shown}' may not be read: {reason}.", "Log in there first, or make it public.", error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        fail(key, f"there is no file '{shown}'.", "Try it in a browser, or list its folder.", error)
    what = f"'{shown}' does not answer: {reason}."
    fail(key, what, "Try it in a browser, or download the file and give its path.", error)
