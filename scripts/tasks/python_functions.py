"""Python: what a function does, and its source without that sentence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import shorten, squeeze

LONGEST = 2000  # characters of a document
LINES = range(3, 60)  # of a function
WORDS = range(4, 31)  # of a query
Function = ast.FunctionDef | ast.AsyncFunctionDef


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the first paragraph of each docstring, and the source of the function without comments and docstrings."""
    for file in files:
        for name, content in read_files(file, r"\.py$"):
            if "/test" not in name and "/idlelib" not in name:
                yield from functions(content.decode("utf-8", "replace"))


def functions(source: str) -> Iterator[Row]:
    """Yield the functions of a file with a docstring."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, Function) and not node.name.startswith("__"):
            query = squeeze((ast.get_docstring(node) or "").split("\n\n")[0])
            code = without_docstrings(node)
            if len(query.split()) in WORDS and len(code.splitlines()) in LINES and query.isascii():
                yield Row(node.name, shorten(code, LONGEST), query)


def without_docstrings(node: Function) -> str:
    """Return the source of a function without comments, and without docstrings, its own and those inside it."""
    for inner in ast.walk(node):
        if isinstance(inner, (Function, ast.ClassDef)) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(node)


TASK = Task(
    name="python_functions",
    summary="Find a function's source by what it does",
    query="first paragraph of a docstring",
    document="source of the function without comments and docstrings",
    language="English, Python",
    sources=(
        Source(
            "apt",
            "libpython3.11-stdlib",
            "3.11.2-6+deb12u9",
            "10f13e000ee757f5f2d2d3569f9e30546214a0c850acd78695feae373bfa3e53",
            "PSF-2.0",
        ),
        Source(
            "pip", "django", "5.2.8", "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f", "BSD-3-Clause"
        ),
        Source(
            "pip", "networkx", "3.5", "0030d386a9a06dee3565298b4a734b68589749a544acbb6c412dc9e2489ec6ec", "BSD-3-Clause"
        ),
        Source(
            "pip", "sympy", "1.14.0", "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5", "BSD-3-Clause"
        ),
    ),
    rows=rows,
    most_documents=6000,
)
