"""Checks of the arguments of public functions."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_whole_number(value: Any, least: int = 1, most: int | None = None) -> bool:
    """Return whether a value is a whole number between two numbers; also one of NumPy, but not True or False."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    number = int(value)
    return least <= number and (most is None or number <= most)


def is_duration(value: Any) -> bool:
    """Return whether a value is a number of seconds, zero or more."""
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) >= 0
