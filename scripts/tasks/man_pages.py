"""Manual pages: the summary in NAME, and the DESCRIPTION."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import shorten, squeeze

LONGEST = 4000  # characters of a document
SHORTEST = 3  # words of a query
ESCAPES = {
    "-": "-",
    "e": "\\",
    "(aq": "'",
    "(dq": '"',
    "(co": "©",
    "(em": "—",
    "(en": "\u2013",
    "~": " ",
    " ": " ",
    "0": " ",
}
FONTS = re.compile(r"^\.(?:SM|[BIRS][BIR]?) ")  # macros that only set their arguments in some font


def rows_of(pages: str, name: str, description: str) -> Callable[[list[Path]], Iterator[Row]]:
    """Return what reads pages whose file name matches `pages`; the other two are headings of their sections."""

    def rows(files: list[Path]) -> Iterator[Row]:
        for file in files:
            for _, content in read_files(file, pages):
                sections = sections_of(content.decode("utf-8", "replace"))
                title, dash, summary = plain(sections.get(name, "")).partition(" - ")
                text = plain(sections.get(description, ""))
                if dash and text and len(summary.split()) >= SHORTEST:
                    yield Row(title, shorten(f"{title}: {text}", LONGEST), summary)

    return rows


def sections_of(page: str) -> dict[str, str]:
    """Return the source of each section of a manual page."""
    _, *parts = re.split(r"^\.S[Hh] +(.*)\n", page, flags=re.MULTILINE)
    return {title.strip().strip('"').upper(): text for title, text in zip(parts[::2], parts[1::2], strict=True)}


def plain(roff: str) -> str:
    """Return the text of the source of a section: arguments of font macros kept, other requests left out."""
    lines = []
    for line in roff.splitlines():
        if FONTS.match(line):
            macro, arguments = line[1:].split(" ", 1)
            parts = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', arguments)]
            alternating = len(macro) == 2 and macro != "SM"
            lines.append(("" if alternating else " ").join(parts))
        elif line.startswith(".Nd "):
            lines.append(f"- {line[4:]}")
        elif line.startswith((".Nm ", ".SS ")):
            lines.append(line[4:].strip('"'))
        elif not line.startswith((".", "'")):
            lines.append(line)
    return squeeze(unescape("\n".join(lines)))


def unescape(text: str) -> str:
    """Return roff text without escape sequences."""
    text = re.sub(r"\\f(?:\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&|^/,%:c]|\\\".*", "", text)
    return re.sub(r"\\(\(..|\[[^]]*\]|\*\(..|\*.|.)", lambda found: ESCAPES.get(found[1], " "), text)


ENGLISH = Task(
    name="man_pages",
    summary="Find a system call, function or file of Linux by what it does",
    query="summary of a manual page, in NAME",
    document="names and DESCRIPTION, up to 4,000 characters",
    language="English",
    sources=(
        Source(
            "apt",
            "manpages",
            "6.03-2",
            "efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91",
            "various free licences",
        ),
        Source(
            "apt",
            "manpages-dev",
            "6.03-2",
            "96f55cb5e26231d5567c89b692bced63825a14a2d5bd18fdf16ea2ed44eb9838",
            "various free licences",
        ),
    ),
    rows=rows_of(r"^\./usr/share/man/man\d/.*\.gz$", "NAME", "DESCRIPTION"),
    test_share=0.35,
)
GERMAN = Task(
    name="man_pages_de",
    summary="Find a program, function or file of Linux by what it does, in German",
    query="summary of a manual page, in BEZEICHNUNG",
    document="names and BESCHREIBUNG, up to 4,000 characters",
    language="German",
    sources=(
        Source(
            "apt",
            "manpages-de",
            "4.18.1-1",
            "37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978",
            "GPL-3.0-or-later",
        ),
    ),
    rows=rows_of(r"/man/de/man\d/.*\.gz$", "BEZEICHNUNG", "BESCHREIBUNG"),
    test_share=0.35,
)
