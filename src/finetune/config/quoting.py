"""Quoting of texts for Hydra's grammar and for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath

# Everything but a word or a path needs quotes, and so do words with a special meaning.
_PLAIN = re.compile(r"(?!(null|true|false|inf|nan)$)(\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII | re.IGNORECASE)


def quoted(text: str) -> str:
    """Return the text as the value of an override, in double quotes if needed.

    Inside quotes a backslash is literal, except before a quote.
    """
    if _PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text)
    return f'"{escaped}"'


def literal(value: object) -> str:
    """Return plain data as the value of an override: text, a number, a bool, None, a path, a list, a dict.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PurePath):
        return quoted(str(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(literal, value)) + "]"
    raise TypeError(f"{type(value).__name__} is not a type of values of a config")


def _key(key: object) -> str:
    """Return a key of a dict, which the grammar does not allow in quotes."""
    if isinstance(key, str):
        return re.sub(r"([\\()\[\]{}:=,\s])", r"\\\1", key)
    return literal(key)


def typed(key: str, value: str) -> str:
    """Return `key=value` quoted for the shell; `value` is already in Hydra's grammar."""
    return shlex.quote(f"{key}={value}")
