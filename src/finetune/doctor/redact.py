"""Hides credentials, and names of persons and machines, in a text that is to be published."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

_HIDDEN = "(hidden)"
_PATTERNS = (
    # Of the Hugging Face hub, W&B (40 hexadecimal digits, or with a prefix), GitHub, OpenAI, AWS; JSON web tokens.
    re.compile(r"\b(?:hf_|wandb_|ghp_|github_pat_|sk-|AKIA)[A-Za-z0-9_-]{16,}"),
    re.compile(r"\b[0-9a-f]{40}\b"),
    re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"),
    # User and password of a URL, and its parameters, which may be a signature.
    re.compile(r"(?<=://)[^/\s\"'<>]+(?=@)"),
    re.compile(r"(?<=://)([^\s\"'<>?]+\?)[^\s\"'<>]+"),
    re.compile(r"(\bauthorization[\"']?\s*[=:]\s*[\"']?(?:basic|bearer|token)\s+)[^\s\"']+", re.IGNORECASE),
    # The value of such a name, in quotes or not.
    re.compile(
        r"((?:api_?key|access_?key|token|secret|password|passwd|credentials)[\"']?\s*[=:]\s*)"
        r"(?:\"[^\"]*\"|'[^']*'|[^\s,;}]+)",
        re.IGNORECASE,
    ),
)
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASS|KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
_SHORTEST = 6  # characters; a shorter secret occurs in other words


def redact(text: str) -> str:
    """Return a text without credentials, and with the home folder, the user and the machine replaced."""
    text = hide_credentials(text).replace(str(Path.home()), "~")
    for word, name in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(word) > 3:  # a short one occurs in other words
            text = re.sub(rf"\b{re.escape(word)}\b", name, text)
    return text


def hide_credentials(text: str) -> str:
    """Return a text without what looks like a credential, and without the secrets in this process's environment."""
    for secret in sorted(set(_secrets_in(os.environ)), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(lambda found: f"{found[1] if found.re.groups else ''}{_HIDDEN}", text)
    return text


def _secrets_in(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of variables with the name of a secret, and the user and password of URLs, decoded or not."""
    for name, value in environment.items():
        found = [value] if _SECRET_VARIABLE.search(name) else []
        _, is_url, rest = value.partition("://")
        login, has_login, _ = rest.rpartition("@")
        if is_url and has_login:
            found += [login, login.partition(":")[2]]
        for secret in found:
            yield from (each for each in (secret, unquote(secret)) if len(each) >= _SHORTEST)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
