"""JSON files of a model folder: one object each, with checks of its keys and the types of its values; no torch.

In Python, JSON's true is an int and a string such as "false" is truthy: both raise where a number or a flag belongs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from finetune.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is no such file.

    Raises:
        TypeError: the file contains something other than an object.
    """
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{path.name} holds a {type(content).__name__}, not an object")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; creates the parent folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_keys(path: Path, content: Mapping[str, Any], supported: Collection[str]) -> None:
    """Check that every key of a JSON file is supported.

    Raises:
        ModelError: one is not.
    """
    unknown = [key for key in content if key not in supported]
    if unknown:
        shown = ", ".join(f"{key} = {_shorten(content[key])}" for key in unknown)
        raise ModelError(
            f"{path}: {shown}: not supported.",
            "Use another model; or, if you know that the model works without it, remove it.",
        )


def read_count(path: Path, key: str, value: object) -> int | None:
    """Return a value that must be a positive integer or null.

    Raises:
        ModelError: it is not.
    """
    if value is None or (is_int(value) and value > 0):
        return value
    raise unsupported(path, key, value, "Write a positive integer, or remove it.")


def read_flag(path: Path, key: str, value: object) -> bool:
    """Return a value that must be true, false or null; null is false.

    Raises:
        ModelError: it is not.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    raise unsupported(path, key, value, "Write true or false, or remove it.")


def read_fraction(path: Path, key: str, value: object) -> float:
    """Return a value that must be a number from 0 to 1.

    Raises:
        ModelError: it is not.
    """
    if (is_int(value) or isinstance(value, float)) and 0 <= value <= 1:
        return float(value)
    raise unsupported(path, key, value, "Write a number from 0 to 1, or remove it.")


def is_int(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def unsupported(path: Path, key: str, value: object, advice: str) -> ModelError:
    """Return the error for a key of a JSON file whose value is not supported."""
    return ModelError(f"{path}: {key} = {_shorten(value)} is not supported.", advice)


def _shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."
