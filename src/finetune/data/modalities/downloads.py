"""Files at URLs, downloaded once and stored in the cache.

The key is the URL: a file that changes on its server is downloaded again after the cache is cleaned (`finetune cache`).
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from finetune import __version__
from finetune.data.cache.store import CacheUnavailable
from finetune.data.modalities.options import Options, UnusableValue

KIND = "downloads"  # in the cache
FILE = "content"
GIVE_UP_AFTER = 8  # URLs of one server without a response: the server is then assumed to be down
SLOWEST = 12  # times the time-out, for a whole file, so that a slow transfer ends
RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
THREADS = 16  # they mostly wait
_BLOCK = 1 << 16


class Downloader:
    """Downloads the files of one column."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._silent: Counter[str] = Counter()  # by server: URLs without a response since the last response

    def get(self, url: str) -> bytes:
        """Return the file, from the cache or its server.

        Raises:
            UnusableValue: it cannot be downloaded.
        """
        if not self.options.fetch:
            raise UnusableValue("unreachable", "URLs are not fetched here")
        fetched: list[bytes] = []

        def build(folder: Path) -> None:
            fetched.append(self._fetch(url))
            (folder / FILE).write_bytes(fetched[0])

        def load(folder: Path) -> bytes:
            if fetched:
                return fetched[0]
            return (folder / FILE).read_bytes()

        try:
            key = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
            return self.options.cache.load(KIND, key, build, load)
        except CacheUnavailable:
            if fetched:
                return fetched[0]
            return self._fetch(url)

    def _fetch(self, url: str) -> bytes:
        server = _server(url)
        for attempt in range(1, self.options.attempts + 1):
            if self._silent[server] >= GIVE_UP_AFTER:
                what = f"its server did not answer for {GIVE_UP_AFTER} other URLs, and is not asked again"
                raise UnusableValue("unreachable", what)
            try:
                content = self._download(url)
            except _TemporaryError as error:
                if attempt == self.options.attempts:
                    self._silent[server] += not error.answered
                    raise UnusableValue("unreachable", str(error)) from error
                time.sleep(0.2 * 2**attempt)
            else:
                self._silent[server] = 0
                return content
        raise ValueError("options.attempts must be at least 1")

    def _download(self, url: str) -> bytes:
        """Try once; raises `_TemporaryError` if a retry may succeed, else `UnusableValue`."""
        try:
            request = urllib.request.Request(
                quote(url, safe="%/:=&?#~+!$,;'@()*[]"), headers={"User-Agent": f"finetune/{__version__}"}
            )
            with _OPENER.open(request, timeout=self.options.timeout) as answer:
                content = self._body(answer)
        except urllib.error.HTTPError as error:
            what = f"the server answers {error.code} ({_reason(error.reason)})"
            error.close()
            if error.code in RETRIED_STATUS:
                raise _TemporaryError(what, answered=True) from error
            raise UnusableValue("unreachable", what) from None
        except TimeoutError as error:
            raise _TemporaryError(f"no answer within {self.options.timeout:g} s", answered=False) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from error
        except ValueError:  # an invalid port or host
            raise UnusableValue("unreachable", "it is not a valid URL") from None
        if content[:200].lstrip()[:1] == b"<" and b"<html" in content[:1000].lower():
            raise UnusableValue("unreachable", "the server sends a web page instead of the file")
        return content

    def _explain(self, error: Exception) -> Exception:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return _TemporaryError(f"no answer within {self.options.timeout:g} s", answered=False)
        if isinstance(error, http.client.InvalidURL):
            return UnusableValue("unreachable", "it is not a valid URL")
        return _TemporaryError(f"the server cannot be reached ({_reason(reason)})", answered=False)

    def _body(self, answer: IO[bytes]) -> bytes:
        blocks, size, end = [], 0, time.monotonic() + SLOWEST * self.options.timeout
        while block := answer.read(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > self.options.most_bytes:
                raise UnusableValue("unreachable", f"it is larger than {self.options.most_bytes >> 20} MiB")
            if time.monotonic() > end:
                raise _TemporaryError("the server sends it too slowly", answered=True)
        # http.client does not report a response that ends early when it is read in blocks.
        if getattr(answer, "length", None):
            raise _TemporaryError("the server stopped in the middle of the file", answered=True)
        return b"".join(blocks)


class _TemporaryError(Exception):
    """A failure that a retry may resolve; `answered` if the server sent a response."""

    def __init__(self, what: str, *, answered: bool) -> None:
        super().__init__(what)
        self.answered = answered


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, nowhere else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise UnusableValue(
                "unreachable", f"the server redirects to {urlsplit(newurl).scheme}:, which is not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https only; the default one also opens file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()


def _server(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def _reason(reason: object) -> str:
    """Return the message of an operating system error without its number."""
    return str(getattr(reason, "strerror", None) or reason)
