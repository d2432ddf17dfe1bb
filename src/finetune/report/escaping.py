"""Anybody's text as text: on one line, cut to length, and with no meaning to Markdown or HTML."""

from __future__ import annotations

import re
import unicodedata

# Bidirectional overrides and isolates would reorder what stands beside the text; a byte-order mark is noise.
_DROPPED = re.compile(
    "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)
# Only what means something where it stands, so that the source of a report can be read as it is. A backslash does for
# Markdown's own. A `_` inside a word means nothing; one before a word can open but, with all others escaped, nothing
# closes it.
_MARKDOWN = r"[`*\[\]~$]|^[-+=>#]|(?<=\d)[.)](?=\s|$)|_(?![^\W_])"
# Character references for what a backslash does not stop everywhere: the borders of tables and the backslash itself,
# HTML and its references, mentions (@, #1), and what common renderers make links of or pictures (:name:).
_OTHER = (
    r"[\\|]|<(?=[a-z/!?])|&(?=#?\w+;)|(?<!\w)@|#(?=\d)|(?<=www)\."
    r"|(?:(?<=http)|(?<=https)|(?<=ftp)|(?<=mailto)|(?<=xmpp)):|:(?=[a-z][\w+-]*:)"
)
_MARKUP = re.compile(f"(?P<markdown>{_MARKDOWN})|{_OTHER}", re.IGNORECASE)
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def one_line(text: str, width: int = 120) -> str:
    """The text with all white space as single blanks, without control characters, at most `width` characters."""
    # Ten times the width is enough to fill it, and spares the work on a cell of megabytes.
    line = " ".join(_DROPPED.sub("", text[: 10 * width]).split())
    shortened = len(line) > width or len(text) > 10 * width
    return line[: width - 1].rstrip() + "…" if shortened else line


def markdown(text: str, width: int = 120) -> str:
    """`one_line` with every character escaped that Markdown or HTML would take for markup, also in a table cell."""
    line = one_line(text, width)
    escaped = _MARKUP.sub(lambda found: f"\\{found[0]}" if found["markdown"] else f"&#{ord(found[0])};", line)
    right_to_left = any(unicodedata.bidirectional(character) in ("R", "AL") for character in line)
    return f"{_FIRST_STRONG_ISOLATE}{escaped}{_POP_ISOLATE}" if right_to_left else escaped


def fenced(code: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"
