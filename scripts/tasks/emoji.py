"""Emoji: a keyword for a character, and the character's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the keywords and the name of each character."""
    for _, content in read_files(files[0], r"^package/annotations/en/annotations\.json$"):
        for character, texts in json.loads(content)["annotations"]["annotations"].items():
            name = texts["tts"][0]
            yield Row(character, name)
            for keyword in texts["default"]:
                yield Row(character, name, keyword)


TASK = Task(
    name="emoji",
    summary="Find a character by a keyword",
    query="a keyword for an emoji or symbol",
    document="name of the character",
    language="English",
    sources=(
        Source(
            "npm",
            "cldr-annotations-full",
            "48.2.0",
            "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
            "Unicode-3.0",
        ),
    ),
    rows=rows,
    split="pairs",
)
