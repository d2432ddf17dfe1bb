"""Text as Hydra's grammar reads it back."""

from __future__ import annotations

import re
import shlex

# Any more than a word or a path, and a word that means something else, needs quotes.
_PLAIN = re.compile(r"(?!(null|true|false|inf|nan)$)(\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII | re.IGNORECASE)


def quoted(text: str) -> str:
    """The text as a value in an override, in double quotes if it needs any.

    There a backslash is one, except in front of a quote.
    """
    if _PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text)
    return f'"{escaped}"'


def typed(key: str, value: str) -> str:
    """`key=value`, with the quotes that a shell needs around it; `value` is in Hydra's grammar already."""
    return shlex.quote(f"{key}={value}")
