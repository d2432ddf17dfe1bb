"""Ansible: what a task of a playbook does, and the module that does it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from scripts.tasks.archives import read_files
from scripts.tasks.task import Row, Source, Task
from scripts.tasks.text import shorten, squeeze

LONGEST = 1500  # characters of a document
SHORTEST = 3  # words of a query


def rows(files: list[Path]) -> Iterator[Row]:
    """Yield the names of the tasks in each module's examples, and the module's description."""
    for name, content in read_files(files[0], r"^ansible_collections/\w+/\w+/plugins/modules/.*\.py$"):
        _, namespace, collection, *_, module = Path(name).parts
        texts = strings_of(content.decode("utf-8", "replace"))
        document = describe(Path(module).stem, load_yaml(texts.get("DOCUMENTATION", "")))
        if document:
            # What changes a thing and what only reads it are one concept.
            concept = f"{namespace}.{collection}.{Path(module).stem.removesuffix('_info').removesuffix('_facts')}"
            yield Row(concept, document)
            for query in task_names(load_yaml(texts.get("EXAMPLES", "")), Path(module).stem):
                yield Row(concept, document, query)


def strings_of(source: str) -> dict[str, str]:
    """Return the strings that are assigned at the top of a Python file, without running it."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    found = {}
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        ):
            found[node.targets[0].id] = str(node.value.value)
    return found


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds, None if it is none."""
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return None


def describe(module: str, documentation: Any) -> str:
    """Return name and description of a module."""
    if not isinstance(documentation, dict) or not documentation.get("description"):
        return ""
    paragraphs = documentation["description"]
    if isinstance(paragraphs, list):
        paragraphs = " ".join(str(paragraph) for paragraph in paragraphs)
    text = f"{module.replace('_', ' ')}: {documentation.get('short_description', '')}. {paragraphs}"
    return shorten(squeeze(re.sub(r"\b[BCILMUVOEP]+\(([^)]*)\)", r"\1", text)), LONGEST)


def task_names(examples: Any, module: str) -> Iterator[str]:
    """Yield the names of the tasks that use the module in a list of examples, also those inside of plays."""
    for task in examples if isinstance(examples, list) else []:
        if isinstance(task, dict):
            name = squeeze(str(task.get("name") or ""))
            uses = any(str(key).split(".")[-1] == module for key in task)
            if uses and len(name.split()) >= SHORTEST:
                yield name
            for part in ("tasks", "block"):
                yield from task_names(task.get(part), module)


TASK = Task(
    name="ansible_modules",
    summary="Find the Ansible module for a task of a playbook",
    query="name of a task in a module's examples",
    document="name, title and description of the module",
    language="English",
    sources=(
        Source(
            "pip",
            "ansible",
            "12.3.0",
            "cd156f82fa87f7a899212b0efa9f7ca3a24d609212de9f78428a572eb01e5414",
            "GPL-3.0-or-later; single collections Apache-2.0, MIT, BSD",
        ),
    ),
    rows=rows,
)
