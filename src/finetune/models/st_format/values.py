"""The JSON files of a model folder: an object each, whose keys and types of values are checked; no torch.

JSON's true is an int to Python, and a text such as "false" is true: both are refused where a number or a flag belongs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from finetune.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; nothing if there is no such file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(content, dict):
        raise TypeError(f"{path.name} holds a {type(content).__name__}, not an object")
    return content


def check_keys(path: Path, found: Mapping[str, Any], known: Collection[str]) -> None:
    """Check that every key of a settings file is one of those that are honoured.

    Raises:
        ModelError: one is not.
    """
    if unknown := [key for key in found if key not in known]:
        shown = ", ".join(f"{key} = {_shown(found[key])}" for key in unknown)
        raise ModelError(
            f"{path}: {shown}: not supported.",
            "Use another model; or, if you know that the model works without it, remove it.",
        )


def count(path: Path, key: str, value: object) -> int | None:
    """Return a value that must be a whole number from 1 on, or null.

    Raises:
        ModelError: it is not.
    """
    if value is None or (is_int(value) and value > 0):
        return value
    raise refused(path, key, value, "Write a whole number from 1 on, or remove it.")


def flag(path: Path, key: str, value: object) -> bool:
    """Return a value that must be true, false or null, which is false.

    Raises:
        ModelError: it is not.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    raise refused(path, key, value, "Write true or false, or remove it.")


def fraction(path: Path, key: str, value: object) -> float:
    """Return a value that must be a number from 0 to 1.

    Raises:
        ModelError: it is not.
    """
    if (is_int(value) or isinstance(value, float)) and 0 <= value <= 1:
        return float(value)
    raise refused(path, key, value, "Write a number from 0 to 1, or remove it.")


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def refused(path: Path, key: str, value: object, advice: str) -> ModelError:
    """Return that a file says what cannot be honoured."""
    return ModelError(f"{path}: {key} = {_shown(value)} is not supported.", advice)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."
