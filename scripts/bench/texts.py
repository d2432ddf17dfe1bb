"""Pairs of three kinds of text for the training benchmark: from what every machine has, always the same.

`short`: definitions and words of the shipped reverse dictionary. `ragged`: docstrings and sources of functions,
from Python's standard library. `long`: first and second halves of its long functions and classes.
"""

from __future__ import annotations

import ast
import csv
import functools
import itertools
import random
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

KINDS = {"short": 64, "ragged": 256, "long": 512}  # and the most tokens of a text
_LONG = range(2_000, 8_000)  # characters of a definition whose halves have 256 to 512 tokens and more


def pairs(kind: str, count: int | None = None) -> list[tuple[str, str]]:
    """Return all pairs of a kind, shuffled; or `count` of them.

    If there are fewer, they are repeated with a number in front of both texts, so that no text occurs twice.
    """
    found = _all(kind)
    if count is None:
        return list(found)
    repeats = itertools.chain.from_iterable([(f"{k} {a}", f"{k} {b}") for a, b in found] for k in itertools.count(2))
    return list(itertools.islice(itertools.chain(found, repeats), count))


@functools.cache
def _all(kind: str) -> list[tuple[str, str]]:
    found = sorted(set(_short() if kind == "short" else _ragged() if kind == "ragged" else _long()))
    random.Random(0).shuffle(found)
    return found


def _short() -> Iterator[tuple[str, str]]:
    path = files("finetune.datasets").joinpath("reverse_dictionary", "train.csv")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            yield row[0], row[1]


def _ragged() -> Iterator[tuple[str, str]]:
    for _, node in _definitions(ast.FunctionDef, ast.AsyncFunctionDef):
        doc = ast.get_docstring(node)
        if doc and len(node.body) > 1:
            node.body = node.body[1:]
            yield doc, ast.unparse(node)


def _long() -> Iterator[tuple[str, str]]:
    for source, node in _definitions(ast.FunctionDef, ast.ClassDef):
        lines = source[node.lineno - 1 : node.end_lineno]
        if sum(map(len, lines)) in _LONG:
            half = len(lines) // 2
            yield "\n".join(lines[:half]), "\n".join(lines[half:])


def _definitions(*kinds: type) -> Iterator[tuple[list[str], Any]]:
    """Yield every definition of the standard library's modules, with the lines of its file."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        lines = source.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield lines, node
