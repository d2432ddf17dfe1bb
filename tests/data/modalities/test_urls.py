from __future__ import annotations

import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune.data.cache.store import Cache
from finetune.data.items import Part
from finetune.data.modalities import Options, downloads, load
from tests.data.modalities.conftest import Server, picture, prepared


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))


def test_an_image_is_downloaded_once_and_read_from_the_cache(server: Server, cache: Cache) -> None:
    server.pages["/a.png"] = picture("blue")
    url = server.url("/a.png")
    stored, bad, column = prepared("image", [url, url, None], cache=cache)
    assert (stored, bad) == ([url, url, None], [])
    part = Part("image", column.combine_chunks().drop_null())
    assert [image.getpixel((0, 0)) for image in load(part, options=Options(cache=cache))] == [(0, 0, 255)] * 2
    assert prepared("image", [url], cache=cache)[0] == [url]
    assert server.asked == ["/a.png"]
    assert [entry.kind for entry in cache.entries()] == ["downloads"]


def test_after_cleaning_the_cache_it_is_downloaded_again(server: Server, cache: Cache) -> None:
    server.pages["/a.png"] = picture()
    _, _, column = prepared("image", [server.url("/a.png")], cache=cache)
    cache.remove(entry.path for entry in cache.entries())
    assert len(load(Part("image", column.combine_chunks()), options=Options(cache=cache))) == 1
    assert len(server.asked) == 2


def test_redirects_are_followed_to_http_only(server: Server, cache: Cache) -> None:
    server.pages |= {"/good": "/a.png", "/a.png": picture(), "/file": "file:///etc/passwd", "/round": "/round"}
    server.pages |= {"/ftp": "ftp://127.0.0.1/a.png", "/text": "/page", "/page": b"<!doctype html><html>log in</html>"}
    stored, bad, _ = prepared(
        "image", [server.url(f"/{p}") for p in ("good", "file", "ftp", "round", "text")], cache=cache
    )
    assert stored == [server.url("/good"), None, None, None, None]
    assert {kind for _, kind, _ in bad} == {"unreachable"}
    assert [what for _, _, what in bad][-1] == "the server sends a web page instead of the file"


def test_a_downloaded_file_that_is_not_an_image(server: Server, cache: Cache) -> None:
    server.pages |= {"/a.png": b"plain text", "/b.png": b"", "/c.png": picture(size=(90, 90))[:100]}
    _, bad, _ = prepared("image", [server.url(f"/{name}.png") for name in "abc"], cache=cache)
    assert [kind for _, kind, _ in bad] == ["image"] * 3


def test_a_missing_file_is_requested_once_and_a_temporary_error_retried(server: Server, cache: Cache) -> None:
    answers = iter([503, 429, picture()])
    server.pages["/busy.png"] = lambda _: next(answers)
    server.pages["/down.png"] = 500
    urls = [server.url(path) for path in ("/no.png", "/busy.png", "/down.png")]
    stored, bad, _ = prepared("image", urls, cache=cache, threads=1)
    assert stored == [None, urls[1], None]
    assert [(row, what[:22]) for row, _, what in bad] == [(0, "the server answers 404"), (2, "the server answers 500")]
    assert sorted(server.asked) == ["/busy.png"] * 3 + ["/down.png"] * 3 + ["/no.png"]
    assert not [path for path in cache.root.rglob("*") if path.is_file() and urls[0] in path.name]
    assert len(cache.entries()) == 1


@pytest.mark.alone
def test_a_silent_server_times_out(server: Server, cache: Cache) -> None:
    server.pages["/slow.png"] = lambda _: time.sleep(3) or picture()
    monotonic = time.monotonic()
    _, bad, _ = prepared("image", [server.url("/slow.png")], cache=cache, timeout=0.2, attempts=2)
    assert time.monotonic() - monotonic < 2.5
    assert bad == [(0, "unreachable", "no answer within 0.2 s")]


def test_requests_to_a_server_that_is_down_end(cache: Cache) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    urls = [f"http://127.0.0.1:{port}/{i}.png" for i in range(400)]
    stored, bad, _ = prepared("image", urls, cache=cache, attempts=1)
    assert stored == [None] * 400
    assert bad.rows == list(range(400))
    assert sum("is not asked again" in what for _, _, what in bad) > 300


def test_an_incomplete_or_slow_transfer(server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(picture())

    server.pages["/short.png"] = short
    _, bad, _ = prepared("image", [server.url("/short.png")], cache=cache)
    assert bad == [(0, "unreachable", "the server stopped in the middle of the file")]
    assert len(server.asked) == 3
    monkeypatch.setattr(downloads, "SLOWEST", -1)
    server.pages["/drip.png"] = picture()
    _, bad, _ = prepared("image", [server.url("/drip.png")], cache=cache)
    assert bad == [(0, "unreachable", "the server sends it too slowly")]


def test_a_file_that_is_too_large(server: Server, cache: Cache) -> None:
    server.pages["/a.bmp"] = picture(size=(700, 700), form="BMP")
    _, bad, _ = prepared("image", [server.url("/a.bmp")], cache=cache, most_bytes=1 << 20)
    assert bad == [(0, "unreachable", "it is larger than 1 MiB")]


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.png",
        "http://[::1/a.png",
        "http://127.0.0.1:x/a.png",
        "http://a b/c.png",
        "http://\n/a.png",
    ],
)
def test_invalid_urls(url: str, cache: Cache) -> None:
    stored, bad, _ = prepared("image", [url], cache=cache, attempts=1, timeout=2)
    assert stored == [None]
    assert bad[0][1] == "unreachable"


def test_a_url_with_spaces_and_special_characters(server: Server, cache: Cache) -> None:
    server.pages["/a%20b%C3%BC.png?x=1&y=%20"] = picture()
    url = server.url("/a bü.png?x=1&y=%20#part")
    assert prepared("image", [url], cache=cache)[0] == [url]


def test_nothing_is_downloaded_with_fetch_false(server: Server, cache: Cache) -> None:
    _, bad, _ = prepared("image", [server.url("/a.png")], cache=cache, fetch=False)
    assert bad == [(0, "unreachable", "URLs are not fetched here")]
    assert server.asked == []


def test_without_a_cache_it_is_downloaded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server.pages["/a.png"] = picture()
    url = server.url("/a.png")
    assert prepared("image", [url], cache=Cache(tmp_path / "file" / "cache"))[0] == [url]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_meshes_at_urls(server: Server, cache: Cache) -> None:
    server.pages["/a.off"] = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    stored, bad, _ = prepared("mesh", [server.url("/a.off"), server.url("/no.off")], cache=cache)
    assert len(stored[0]) == 1024 * 12
    assert bad.rows == [1]
