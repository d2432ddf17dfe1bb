"""Linters: the message that a rule prints, and the explanation of the rule."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import shorten, squeeze

LONGEST = 1500  # characters of a document
SHORTEST = 3  # words of a query


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the messages and explanations of pylint and RuboCop."""
    pylint, rubocop = files
    for _, content in read_files(pylint, r"^pylint/(checkers|extensions)/.*\.py$"):
        yield from pylint_rules(content.decode())
    for name, content in read_files(rubocop, r"/lib/rubocop/cop/\w+/\w+\.rb$"):
        yield from rubocop_rules(Path(name).stem, content.decode())


def pylint_rules(source: str) -> Iterator[Row]:
    """Yield the rules in a file of pylint: {"W0102": (message, name, explanation)}."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and re.fullmatch(r"[A-Z]\d{4}", str(key.value)):
                    texts = [part.value for part in getattr(value, "elts", []) if isinstance(part, ast.Constant)]
                    if len(texts) >= 3:
                        message, name, explanation = map(str, texts[:3])
                        yield from rule("Python", name.replace("-", " "), explanation, message)


def rubocop_rules(name: str, source: str) -> Iterator[Row]:
    """Yield the rules in a file of RuboCop: a comment above the class, and constants MSG."""
    before, found, body = source.partition(" < Base\n")
    if not found:
        return
    comment = re.search(r"((?: *#.*\n)+) *class \w+$", before)
    if comment:
        explanation = re.sub(r"^ *# ?", "", comment[1], flags=re.MULTILINE)
        for message in re.finditer(r"""\bMSG\w* = ((?:['"].*['"](?: \\\n *)?)+)""", body):
            text = "".join(part[1:-1] for part in re.findall(r"'[^'\n]*'|\"[^\"\n]*\"", message[1]))
            yield from rule("Ruby", name.replace("_", " "), explanation, text)


def rule(language: str, name: str, explanation: str, message: str) -> Iterator[Row]:
    """Yield one rule, its message without placeholders."""
    document = shorten(f"{language}: {name}. {squeeze(explanation)}", LONGEST)
    query = squeeze(re.sub(r"%<\w+>s|%\(\w+\)\w|%[rsd]|%\{\w+\}|[\"'`]", " ", message))
    if len(query.split()) >= SHORTEST:
        yield Row(f"{language} {name}", document, query)
    else:
        yield Row(f"{language} {name}", document)


TASK = Task(
    name="linter_rules",
    summary="Find the explanation of a linter's message",
    query="message that pylint or RuboCop prints, without placeholders",
    document="name and explanation of the rule, with examples",
    language="English, Python and Ruby",
    sources=(
        Source(
            "pip",
            "pylint",
            "4.1.4",
            "b39fcc762ec4a7fe385d01b8e170fd996847297cdc0e3850bdda1435c74cfd95",
            "GPL-2.0-or-later",
        ),
        Source(
            "apt", "rubocop", "1.39.0+dfsg-1", "86f71a1cebf53f9bd336a3f17bf0d3a1dadea104a956e65c8fa1ec03097772d9", "MIT"
        ),
    ),
    rows=rows,
    test_share=0.35,
)
