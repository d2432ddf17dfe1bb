"""Checks of the arguments of public functions."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from finetune.errors import FinetuneError


def is_whole_number(value: Any, least: int = 1, most: int | None = None) -> bool:
    """Return whether a value is a whole number between two numbers; also one of NumPy, but not True or False."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    number = int(value)
    return least <= number and (most is None or number <= most)


def check_timeout(timeout: Any) -> None:
    """Check that a timeout is a number of seconds, zero or more, or None.

    Raises:
        FinetuneError: it is something else.
    """
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and float(timeout) >= 0):
        raise FinetuneError(f"timeout={timeout!r} is not a number of seconds.", "Give one, or None to wait for ever.")
