"""All development tasks, by name."""

from __future__ import annotations

from scripts.tasks import (
    ansible_modules,
    aws_operations,
    emoji,
    foldoc,
    gimp_manual,
    linter_rules,
    man_pages,
    package_descriptions,
    python_functions,
)
from scripts.tasks.task import Task

_TASKS = (
    ansible_modules.TASK,
    aws_operations.TASK,
    emoji.TASK,
    foldoc.TASK,
    gimp_manual.TASK,
    linter_rules.TASK,
    man_pages.ENGLISH,
    man_pages.GERMAN,
    package_descriptions.ENGLISH,
    package_descriptions.GERMAN,
    python_functions.TASK,
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
