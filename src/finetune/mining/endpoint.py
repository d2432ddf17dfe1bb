"""A judge behind an OpenAI-compatible API (vLLM, llama.cpp server, a hosted model): one question for each pair.

Shapes: P pairs.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.items import Items
from finetune.errors import RunError
from finetune.mining.bare_texts import bare_texts
from finetune.mining.retriever import Floats
from finetune.mining.settings import Judge

_FIRST_WAIT = 1.0  # seconds before the first retry; doubled for each next one
_LONGEST_WAIT = 60.0
_WORTH_A_RETRY = {408, 409, 429, 500, 502, 503, 504}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key would be sent to where it points."""

    def redirect_request(self, *_: object) -> None:
        return None


class EndpointJudge:
    """Asks a chat model whether a document is right for an anchor: 1 for yes, 0 for no or anything else.

    `prompts` before a text are left out. The key is read from the environment and sent in the header only.
    """

    gives_scores = False

    def __init__(
        self, judge: Judge, items: Items, prompts: Sequence[str] = (), wait: Callable[[float], None] = time.sleep
    ) -> None:
        assert judge.endpoint is not None
        self._judge, self._items, self._prompts, self._wait = judge, items, prompts, wait
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._url = f"{judge.endpoint.rstrip('/')}/chat/completions"

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return 1 or 0 for each pair; several questions are asked at the same time.

        Raises:
            RunError: the endpoint cannot be reached, refuses, or sends something else than an answer.
        """
        left, right = (bare_texts(self._items, each, self._prompts).to_pylist() for each in (anchors_P, documents_P))
        questions = [
            self._judge.prompt.format(anchor=anchor, document=document)
            for anchor, document in zip(left, right, strict=True)
        ]
        with ThreadPoolExecutor(self._judge.concurrency) as pool:
            futures = [pool.submit(self._ask, question) for question in questions]
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return np.array([_is_yes(answer) for answer in answers], np.float32)

    def _ask(self, question: str) -> str:
        wait = _FIRST_WAIT
        for attempt in range(self._judge.retries + 1):
            try:
                return self._answer(question)
            except (OSError, http.client.HTTPException) as error:
                if attempt == self._judge.retries or not _may_pass(error):
                    raise self._failed(error) from None  # without the request, which has the key
                self._wait(min(_asked_wait(error) or wait, _LONGEST_WAIT))
                wait *= 2
        raise AssertionError

    def _answer(self, question: str) -> str:
        body = {
            "model": self._judge.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 8,
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._judge.key_variable, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=self._judge.timeout) as response:
            content = response.read()
        try:
            return str(json.loads(content)["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError):
            what = f"{self._url} sends something else than the answer of a chat model."
            raise RunError(what, "Is negatives.judge.endpoint the address up to /v1?") from None

    def _failed(self, error: BaseException) -> RunError:
        if isinstance(error, urllib.error.HTTPError):
            advice = "Try it again later; what was judged is kept."
            if error.code in (401, 403):
                advice = f"Put a valid key into the environment variable {self._judge.key_variable}."
            if error.code == 404:
                advice = f"Is the address right, and is there a model '{self._judge.model}'?"
            return RunError(f"the judge at {self._url} answers {error.code} ({error.reason}).", advice)
        reason = getattr(error, "reason", error)
        what = f"the judge at {self._url} does not answer ({reason or type(error).__name__})."
        return RunError(what, "Is it running? What was judged is kept; the same command resumes.")


def _may_pass(error: BaseException) -> bool:
    """Return whether a request may succeed later."""
    return not isinstance(error, urllib.error.HTTPError) or error.code in _WORTH_A_RETRY


def _asked_wait(error: BaseException) -> float | None:
    """Return how long the server asks to wait, in seconds."""
    after = error.headers.get("Retry-After") if isinstance(error, urllib.error.HTTPError) else None
    try:
        return float(after) if after else None
    except ValueError:
        return None


def _is_yes(answer: str) -> bool:
    words = answer.casefold().split()
    return bool(words) and words[0].strip(".,:;!*\"'") == "yes"
