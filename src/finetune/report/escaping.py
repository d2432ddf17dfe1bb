"""Any text of the data on one line, truncated, and escaped for Markdown and HTML."""

from __future__ import annotations

import re
import unicodedata

# Bidirectional overrides and isolates would reorder the surrounding text; a byte-order mark is noise.
_DROPPED = re.compile(
    "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)
# Only characters that are markup in their context, so that the source of a report stays readable. A backslash escapes
# Markdown's own characters. A `_` inside a word is not markup; one before a word could open emphasis, but with all
# others escaped nothing closes it.
_MARKDOWN = r"[`*\[\]~$]|^[-+=>#]|(?<=\d)[.)](?=\s|$)|_(?![^\W_])"
# Character references where a backslash does not work in all renderers: the borders of tables and the backslash itself,
# HTML and its references, mentions (@, #1), and text that common renderers turn into links or emoji (:name:).
_OTHER = (
    r"[\\|]|<(?=[a-z/!?])|&(?=#?\w+;)|(?<!\w)@|#(?=\d)|(?<=www)\."
    r"|(?:(?<=http)|(?<=https)|(?<=ftp)|(?<=mailto)|(?<=xmpp)):|:(?=[a-z][\w+-]*:)"
)
_MARKUP = re.compile(f"(?P<markdown>{_MARKDOWN})|{_OTHER}", re.IGNORECASE)
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def one_line(text: str, width: int = 120) -> str:
    """Return the text with single spaces for all white space, without control characters, truncated to `width`."""
    # Only the first characters are processed, since a cell may have megabytes.
    start = text[: 10 * width]
    line = " ".join(_DROPPED.sub("", start).split())
    if len(line) > width or len(text) > len(start):
        return line[: width - 1].rstrip() + "…"
    return line


def markdown(text: str, width: int = 120) -> str:
    """Return `one_line` with all markup of Markdown and HTML escaped, also for a table cell."""
    line = one_line(text, width)
    escaped = _MARKUP.sub(_escape, line)
    is_right_to_left = any(unicodedata.bidirectional(character) in ("R", "AL") for character in line)
    if is_right_to_left:
        return f"{_FIRST_STRONG_ISOLATE}{escaped}{_POP_ISOLATE}"
    return escaped


def _escape(found: re.Match[str]) -> str:
    if found["markdown"]:
        return f"\\{found[0]}"
    return f"&#{ord(found[0])};"


def fenced(code: str, language: str = "") -> str:
    """Return a code block whose fence is longer than any sequence of backticks in the code."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"
