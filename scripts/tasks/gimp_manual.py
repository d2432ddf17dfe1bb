"""GIMP's manual in French: the first sentence of a section, and the rest of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import first_sentence, shorten, squeeze, words

LONGEST = 4000  # characters of a document
WORDS = range(5, 41)  # of a query
REST = 15  # words that must be left of a section
FRENCH = frozenset(words("le la les un une des du est et dans pour que qui sur vous ce cette avec par"))
ENGLISH = frozenset(words("the a an of is and in for that which on you this with by to it are"))
WHERE = re.compile(r"Accès|Activation")  # titles of sections about menus, which all begin alike


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the first sentence of each section, and its titles with the rest; one page is one concept."""
    for name, content in read_files(files[0], r"/help/fr/(?!gfdl).*\.html$"):
        page = ""
        for title, paragraphs in sections_of(content.decode("utf-8")):
            page = page or title
            # Parts of the manual are not translated.
            query, rest = first_sentence(" ".join(filter(is_french, paragraphs)))
            if len(rest.split()) >= REST:
                titles = ". ".join(dict.fromkeys([page, title]))
                kept = query if len(query.split()) in WORDS and not WHERE.match(title) else ""
                yield Row(name, shorten(f"{titles}. {rest}", LONGEST), kept)


def sections_of(page: str) -> list[tuple[str, list[str]]]:
    """Return title and paragraphs of each section of a page that DocBook wrote."""
    parser = _Sections()
    parser.feed(page)
    return parser.sections


def is_french(text: str) -> bool:
    """Whether a text has more words that are frequent in French than such in English."""
    found = words(text)
    return sum(word in FRENCH for word in found) > sum(word in ENGLISH for word in found)


class _Sections(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections: list[tuple[str, list[str]]] = []
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        is_caption = tag == "p" and ("class", "title") in attrs
        if re.fullmatch(r"h[1-6]|p", tag) and not is_caption:
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if self._text is None or not re.fullmatch(r"h[1-6]|p", tag):
            return
        text, self._text = squeeze("".join(self._text)), None
        if tag != "p":
            self.sections.append((re.sub(r"^[\d.]+ ", "", text), []))
        elif self.sections:
            self.sections[-1][1].append(text)


TASK = Task(
    name="gimp_manual_fr",
    summary="Find a section of GIMP's manual, in French",
    query="first sentence of a section",
    document="titles of the page and the section, and the rest of it, up to 4,000 characters",
    language="French",
    sources=(
        Source(
            "apt",
            "gimp-help-fr",
            "2.10.34-2",
            "6f1409dc1078f6660490a399e6da0a37cb31c4224b66da400fdf2148c33e4cf6",
            "GFDL-1.2-or-later",
        ),
    ),
    rows=rows,
    test_share=0.3,
)
