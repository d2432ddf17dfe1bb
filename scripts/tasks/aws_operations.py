"""AWS: what an operation of a web service does, and its name, parameters and results."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import first_sentence, shorten, squeeze

LONGEST = 1500  # characters of a document
WORDS = range(4, 41)  # of a query


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the first sentence about each operation, and its signature with the rest of what is said about it."""
    newest = {}
    for name, content in read_files(files[0], r"^botocore/data/.*/service-2\.json\.gz$"):
        newest[Path(name).parts[2]] = content  # sorted by name, so by date
    for content in newest.values():
        yield from operations(json.loads(content))


def operations(service: dict[str, Any]) -> Iterator[Row]:
    """Yield the operations of one service."""
    metadata = service["metadata"]
    title = metadata.get("serviceAbbreviation") or metadata["serviceFullName"]
    for name, operation in service["operations"].items():
        query, rest = first_sentence(plain(operation.get("documentation", "")))
        if len(query.split()) in WORDS:
            signature = [f"{title} {name}", members(service, operation, "input"), members(service, operation, "output")]
            yield Row(f"{title} {name}", shorten(squeeze(" ".join([*signature, rest])), LONGEST), query)


def members(service: dict[str, Any], operation: dict[str, Any], part: str) -> str:
    """Return the names of the parameters or results of an operation."""
    shape = operation.get(part, {}).get("shape")
    names = ", ".join(service["shapes"].get(shape, {}).get("members", {}))
    return f"{part}: {names}." if names else ""


def plain(text: str) -> str:
    """Return the text of HTML."""
    return squeeze(html.unescape(re.sub(r"<[^>]+>", " ", text))).replace(" .", ".").replace(" ,", ",")


TASK = Task(
    name="aws_operations",
    summary="Find the operation of a web service by what it does",
    query="first sentence about an operation",
    document="service, name, parameters and results of the operation, and the rest of its description",
    language="English",
    sources=(
        Source(
            "pip",
            "botocore",
            "1.44.5",
            "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921",
            "Apache-2.0",
        ),
    ),
    rows=rows,
    most_documents=8000,
)
