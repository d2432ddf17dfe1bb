"""Small tools for text that several sources need."""

from __future__ import annotations

import re


def squeeze(text: str) -> str:
    """Return the text in one line, with single spaces."""
    return " ".join(text.split())


def first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence of a text in one line, and the rest."""
    text = squeeze(text)
    # Not after an abbreviation of one letter, or e.g. and i.e.; and only before an upper-case letter or the like.
    for match in re.finditer(r"(?<![ .(][A-Za-z])(?<!e\.g)(?<!i\.e)(?<!etc)[.!?:] (?=[A-ZÄÖÜ\"'`(\[{0-9])", text):
        return text[: match.start() + 1].rstrip(":"), text[match.end() :]
    return text, ""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def shorten(text: str, most: int) -> str:
    """Return at most so many characters, cut between words."""
    if len(text) <= most:
        return text
    return text[:most].rsplit(" ", 1)[0]
