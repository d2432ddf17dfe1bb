"""FOLDOC: what a term of computing means, and its entry without that sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import first_sentence, shorten, squeeze

LONGEST = 1500  # characters of a document
WORDS = range(5, 41)  # of a query
REST = 6  # words that must be left of an entry


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the first sentence of each entry, and its headword with the rest of the entry."""
    for _, content in read_files(files[0], r"foldoc\.dict\.dz$"):
        for headword, text in entries(content.decode("utf-8", "replace")):
            query, rest = first_sentence(plain(first_sense(text)))
            document = shorten(f"{headword}. {rest}", LONGEST)
            # "An abbreviation of ..." with the headword in it is a copy, not a description.
            if len(rest.split()) >= REST and len(query.split()) in WORDS and headword.lower() not in query.lower():
                yield Row(headword, document, query)
            else:
                yield Row(headword, document)


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield headword and text: a headword begins a line, its text is indented."""
    for entry in re.finditer(r"^(\S.*)\n((?:(?:[ \t].*)?\n)+)", text, re.MULTILINE):
        if "reference" not in entry[1] and not entry[1].startswith("00-"):
            yield entry[1].strip(), entry[2]


def first_sense(text: str) -> str:
    """Return the first of the numbered senses of an entry, which have nothing in common."""
    return re.split(r"^ +2\. ", text, maxsplit=1, flags=re.MULTILINE)[0]


def plain(text: str) -> str:
    """Return an entry without marks, fields, pronunciation, other headwords, addresses, references, and dates."""
    text = re.sub(r"\(\d{4}-\d\d-\d\d\)|\{?\((?:http|ftp|news|mailto)[^)]*\)\}?|\[[^\]]*\]", " ", text)
    text = re.sub(r"^\s*(?:<[^>]*>|\([^)]*\)|/[^/]*/)+", " ", text.strip())
    text = re.sub(r"(?<!\S)(?:\d\.|<[^>]*>)(?!\S)", " ", text)
    return squeeze(re.sub(r"[{}]", "", text)).removeprefix("). ").replace(" .", ".").replace("..", ".")


TASK = Task(
    name="foldoc",
    summary="Find a term of computing by a description",
    query="first sentence of an entry of the Free On-line Dictionary of Computing, if it does not contain the term",
    document="the term and the rest of the entry",
    language="English",
    sources=(
        Source(
            "apt",
            "dict-foldoc",
            "20230119-1",
            "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
            "GFDL-1.3-or-later",
        ),
    ),
    rows=rows,
    most_documents=8000,
)
