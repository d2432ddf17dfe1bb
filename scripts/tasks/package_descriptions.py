"""Debian's packages: the short description of a package, and its long description."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import shorten, squeeze

LONGEST = 1500  # characters of a document
WORDS = range(3, 31)  # of a query
SHORTEST = 15  # words of a document
SKIPPED = re.compile(r"^(librust-|golang-|.*-(dbg|dbgsym|l10n|locale)\b)|transitional|dummy|Übergangspaket|Dummy")
LICENCE = "that of each package"


def rows_in(language: str) -> Callable[[list[Path]], Iterator[Row]]:
    """Return what reads the descriptions in one language."""

    def rows(files: list[Path]) -> Iterator[Row]:
        for package, short, text in packages(files[0].read_text("utf-8"), language):
            if len(text.split()) >= SHORTEST and not SKIPPED.search(f"{package} {short}"):
                # The packages of one source have the first paragraph in common.
                concept = squeeze(text.split("\n\n")[0])
                document = shorten(squeeze(f"{package}: {text}"), LONGEST)
                yield Row(concept, document, short if len(short.split()) in WORDS else "")

    return rows


def packages(index: str, language: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, short and long description of each package in an index; an empty line separates paragraphs."""
    pattern = rf"^Package: (\S+)\n(?:\S+: .*\n)*?Description-{language}: (.*)\n((?: .*\n)+)"
    for package, short, text in re.findall(pattern, index, re.MULTILINE):
        yield package, squeeze(short), re.sub(r"^ \.?", "", text, flags=re.MULTILINE).strip()


ENGLISH = Task(
    name="packages",
    summary="Find a Debian package by what it is",
    query="short description of a package",
    document="name and long description of the package",
    language="English",
    sources=(
        Source(
            "apt-index",
            "debian_dists_bookworm",
            "en",
            "62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f",
            LICENCE,
        ),
    ),
    rows=rows_in("en"),
    most_documents=6000,
)
GERMAN = Task(
    name="packages_de",
    summary="Find a Debian package by what it is, in German",
    query="short description of a package",
    document="name and long description of the package",
    language="German",
    sources=(
        Source(
            "apt-index",
            "debian_dists_bookworm",
            "de",
            "adac331fc51f9a00c1b4120b4ac87423be2b1f1615d4f288c7cbc2d5258c0650",
            LICENCE,
        ),
    ),
    rows=rows_in("de"),
    most_documents=5000,
)
