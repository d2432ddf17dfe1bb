"""Subpackages that have the name of a function of the API, such as `finetune.runs(...)` and `finetune.embed(...)`.

Python sets a subpackage as an attribute of its package when it is imported, so a function of the same name would be
replaced by it. A subpackage that can be called is both.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, name = self.__dict__["_function"].partition(":")
        return getattr(import_module(module), name)(*args, **kwargs)


def make_callable(package: str, function: str) -> None:
    """Make a package that is being imported callable: a call of it is one of `function`, as in `module:name`."""
    module = sys.modules[package]
    module._function = function  # type: ignore[attr-defined]
    module.__class__ = _CallablePackage
