from __future__ import annotations

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest

from finetune.data.cache.store import Cache
from finetune.data.items import STORED, Modality
from finetune.data.modalities import Options, prepare_column


class Bad(list[tuple[int, str, str]]):
    """Collects what is reported."""

    def __call__(self, row: int, kind: str, what: str) -> None:
        self.append((row, kind, what))

    @property
    def rows(self) -> list[int]:
        return [row for row, _, _ in self]


def prepared(
    modality: Modality, values: Any, base: Path = Path("/nowhere"), **options: Any
) -> tuple[list[Any], Bad, pa.ChunkedArray]:
    """Return the stored values, what was reported, and the column."""
    bad = Bad()
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values)])
    stored = prepare_column(modality, column, base, bad, options=Options(**options))
    assert stored.type == STORED[modality]
    assert len(stored) == len(column)
    stored.validate(full=True)
    return stored.to_pylist(), bad, stored


def picture(
    color: Any = "red", size: tuple[int, int] = (8, 6), form: str = "PNG", mode: str = "RGB", **how: Any
) -> bytes:
    """Return the bytes of an image of one colour."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, form, **how)
    return stream.getvalue()


class Server:
    """A web server for tests: `pages` are the responses by path: bytes, a status, a redirect, or a function."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                page = outer.pages.get(self.path, 404)
                page = page(self) if callable(page) else page
                if page is None:
                    return
                if isinstance(page, str):
                    self.send_response(302)
                    self.send_header("Location", page)
                    self.end_headers()
                elif isinstance(page, int):
                    self.send_error(page)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(page)))
                    self.end_headers()
                    self.wfile.write(page)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hangs up is no error
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
