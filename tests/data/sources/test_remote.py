"""URLs, with a local server and fsspec's file system in memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from finetune.data.sources.remote import redacted_url
from tests.data.sources.conftest import error_message, rows_of

PAIRS = "question,answer\nq1,a1\nq2,a2\nq3,a3\n"
EXPECTED = [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]


class Handler(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/broken"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"question,answer\n")
        elif not self.refused():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path.startswith("/broken"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
        elif not self.refused():
            super().do_HEAD()

    def refused(self) -> bool:
        if self.path.startswith("/secret"):
            self.send_error(403)
        return self.path.startswith("/secret")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))


def test_a_file_at_a_url_is_read_and_downloaded_once(server, write, monkeypatch):
    write(PAIRS, "my pairs.csv")
    monkeypatch.setattr(Handler, "asked", [])
    url = f"{server}/my%20pairs.csv?key=secret"
    assert rows_of(url) == EXPECTED
    assert rows_of(url) == EXPECTED
    assert Handler.asked == ["/my%20pairs.csv?key=secret"]
    assert "secret" not in error_message(url, format="parquet")


def test_changed_content_is_downloaded_again(server, write):
    path = write(PAIRS)
    assert rows_of(f"{server}/pairs.csv") == EXPECTED
    path.write_text(PAIRS + "q4,a4\n")
    import os

    os.utime(path, (2_000_000_000, 2_000_000_000))
    assert len(rows_of(f"{server}/pairs.csv")) == 4


def test_an_error_of_the_server_is_one_problem(server, write):
    write(PAIRS)
    for url, expected in {
        f"{server}/nothing.csv": "there is no file",
        f"{server}/secret.csv": "may not be read",
        f"{server}/broken.csv": "does not answer",
        "http://127.0.0.1:9/pairs.csv": "does not answer",
        "http://no-such-host.invalid/pairs.csv": "does not answer",
        "nothing://a/b.csv": "there is no way to read 'nothing://'",
    }.items():
        answer = error_message(url)
        assert expected in answer
        assert len(answer.splitlines()) == 1


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/x.csv", "s3fs"), ("gs://bucket/x.csv", "gcsfs")])
def test_a_missing_package_is_named(url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    scheme = url.partition(":")[0]
    assert (
        error_message(url) == f"data.path: {scheme}:// needs the package {package}. Install it: pip install {package}."
    )


def test_a_file_system_in_memory(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/sources/a.csv": PAIRS.encode(), "/sources/b.csv": b"question,answer\nq4,a4\n"})
    try:
        assert rows_of("memory://sources/a.csv") == EXPECTED
        assert rows_of("memory://sources/*.csv") == [*EXPECTED, ("q4", "a4")]
        assert rows_of(["memory://sources/a.csv", "memory://sources/b.csv"])[-1] == ("q4", "a4")
        memory.pipe("/sources/a.csv", PAIRS.encode() + b"q9,a9\n")
        assert len(rows_of("memory://sources/a.csv")) == 4
        assert "is a folder" in error_message("memory://sources")
        assert "no file matches 'memory://sources/*.txt'" in error_message("memory://sources/*.txt")
        memory.pipe("/sources/c.csv", b"question,answer\nq\n")
        assert "memory://sources/c.csv:2: found 1 cell" in error_message("memory://sources/c.csv")
    finally:
        memory.rm("/sources", recursive=True)


def test_a_file_url_is_a_path(write):
    assert rows_of(write(PAIRS).as_uri()) == EXPECTED


def test_passwords_and_keys_are_not_shown():
    assert redacted_url("https://me:word@host/x.csv?key=1#part") == "https://host/x.csv"
    assert redacted_url("s3://bucket/a b.csv") == "s3://bucket/a b.csv"
