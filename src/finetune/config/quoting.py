"""Quoting of texts for Hydra's grammar and for the shell."""

from __future__ import annotations

import re
import shlex

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


def typed(key: str, value: str) -> str:
    """Return `key=value` quoted for the shell; `value` is already in Hydra's grammar."""
    return shlex.quote(f"{key}={value}")
