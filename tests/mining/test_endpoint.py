"""A judge behind an OpenAI-compatible API: a stub on the loopback interface."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.errors import RunError
from finetune.mining import cached
from finetune.mining.endpoint import EndpointJudge
from tests.mining.made import NO_JUDGE, items_of
from tests.mining.test_command import here, run  # noqa: F401  a fixture

KEY = "sk-very-secret"


class Stub(ThreadingHTTPServer):
    """Says yes where the document has the first word of the query; fails as `failures` says, one after another."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.failures: list[int] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            self.server.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            failure = self.server.failures.pop(0) if self.server.failures else 0
        threading.Event().wait(0.01)
        with self.server.lock:
            self.server.at_once -= 1
        if failure:
            self.send_response(failure)
            self.send_header("Retry-After", "3")
            self.end_headers()
            self.wfile.write(f"denied to {self.headers.get('Authorization')}".encode())
            return
        query, document = body["messages"][0]["content"].split("|")
        word = "Yes." if query.split()[0] in document else "no, it does not"
        content = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def judge_of(stub: Stub, waits: list[float] | None = None, **changes: object) -> EndpointJudge:
    settings = replace(NO_JUDGE, model="m", endpoint=stub.address, prompt="{anchor}|{document}", **changes)
    items = items_of(["q: red cat", "a red dog", "blue", *(f"text {i}" for i in range(20))])
    return EndpointJudge(settings, items, ["q: "], (waits if waits is not None else []).append)


def test_answers_are_scores(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert judge_of(stub).score(np.array([0, 0]), np.array([1, 2])).tolist() == [1.0, 0.0]
    request = next(each for each in stub.requests if "dog" in each["messages"][0]["content"])
    assert request["path"] == "/v1/chat/completions"
    assert request["messages"][0]["content"] == "red cat|a red dog"  # without the prompt
    assert (request["model"], request["temperature"], request["key"]) == ("m", 0, f"Bearer {KEY}")


def test_several_questions_are_asked_at_the_same_time(stub: Stub) -> None:
    judge_of(stub, concurrency=4).score(np.zeros(20, np.int64), np.arange(3, 23))
    assert 1 < stub.most_at_once <= 4
    assert stub.requests[0]["key"] is None  # no key in the environment


def test_a_failing_request_is_repeated_after_growing_waits(stub: Stub) -> None:
    stub.failures = [500, 429, 503]
    waits: list[float] = []
    assert judge_of(stub, waits, retries=3).score(np.array([0]), np.array([1])).tolist() == [1.0]
    assert waits == [3.0, 3.0, 3.0]  # as the server asks


def test_what_does_not_answer_is_an_error_after_all_retries(stub: Stub) -> None:
    judge = judge_of(stub, waits := [], retries=2)
    stub.shutdown()
    stub.server_close()
    with pytest.raises(RunError, match="does not answer"):
        judge.score(np.array([0]), np.array([1]))
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(("code", "advice"), [(401, "OPENAI_API_KEY"), (404, "a model 'm'"), (400, "later")])
def test_a_refusal_is_not_repeated_and_never_shows_the_key(stub: Stub, monkeypatch, caplog, code, advice) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    stub.failures = [code]
    with caplog.at_level(logging.DEBUG), pytest.raises(RunError, match=f"answers {code}") as failed:
        judge_of(stub).score(np.array([0]), np.array([1]))
    assert advice in failed.value.advice
    assert KEY not in f"{failed.getrepr(chain=True, showlocals=False)}{failed.value}{caplog.text}"
    assert len(stub.requests) == 1


def test_mining_asks_it_and_keeps_what_was_judged(here, stub: Stub, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    words = ["data.path=pairs.csv", f"negatives.judge.endpoint={stub.address}", "negatives.judge.model=m"]
    words += [
        "negatives.judge.prompt='{anchor}|{document}'",
        "negatives.judge.relabel=true",
        "negatives.judge.retries=0",
    ]
    stub.failures = [*[0] * 30, 500]
    monkeypatch.setattr(cached, "_PAIRS_AT_ONCE", 10)
    failed = CliRunner().invoke(app, ["mine", "out=mined.parquet", *words])
    assert failed.exit_code == 1
    assert "answers 500" in " ".join(failed.output.split())
    before = len(stub.requests)
    output = run("out=mined.parquet", *words)
    assert "candidates became positives" in output
    questions = [each["messages"][0]["content"] for each in stub.requests]
    assert len(questions) - len(set(questions)) <= 10 < before  # only the part that failed is asked again
    for path in here.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
    assert KEY not in output + failed.output


def test_an_answer_of_another_kind_is_an_error(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def strange(self: Handler) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    monkeypatch.setattr(Handler, "do_POST", strange)
    with pytest.raises(RunError, match="something else"):
        judge_of(stub).score(np.array([0]), np.array([1]))


def test_the_key_is_not_sent_to_where_a_redirect_points(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def redirect(self: Handler) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append({"is": self.command})
        self.send_response(302)
        self.send_header("Location", f"{self.server.address}/elsewhere")
        self.end_headers()

    monkeypatch.setattr(Handler, "do_POST", redirect)
    monkeypatch.setattr(Handler, "do_GET", redirect, raising=False)
    with pytest.raises(RunError, match="answers 302"):
        judge_of(stub).score(np.array([0]), np.array([1]))
    assert len(stub.requests) == 1
