"""All development tasks, by name."""

from __future__ import annotations

from scripts.tasks import ansible_modules, aws_operations, foldoc, linter_rules, python_functions
from scripts.tasks.task import Task

_MODULES = (ansible_modules, aws_operations, foldoc, linter_rules, python_functions)

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
