"""Types of config values with their ranges, used as annotations by all classes that a config can build.

The check reads these annotations from source text, so that a wrong value is reported without importing the class.
Annotations may only use names from this module, builtins and `typing`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Bounds of a finite number; `None` leaves a side open, `above` and `below` exclude their own value."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether the value is within the bounds; infinity and NaN never are."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        has_lower = self.at_least is not None or self.above is not None
        bounds = {
            "of at least": self.at_least,
            "above": self.above,
            "at most" if has_lower else "of at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{words} {bound:.12g}" for words, bound in bounds.items() if bound is not None)


# Texts that mean no name, and names of devices on Windows.
_RESERVED = re.compile(r"None|null|((CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?)", re.IGNORECASE)


@dataclass(frozen=True)
class FolderName:
    """A text that is a valid folder name on all common file systems."""

    longest: int = 200  # bytes; file systems allow 255, and suffixes for uniqueness are appended

    def holds(self, value: str) -> bool:
        """Return whether the text is the name of one visible folder."""
        return (
            0 < len(value.encode("utf-8", "surrogatepass")) <= self.longest
            and value.isprintable()
            and not set(value) & set("/\\")
            and not value.startswith((".", "-"))
            and not value.endswith(".")
            and value == value.strip()
            and not _RESERVED.fullmatch(value)
        )

    def __str__(self) -> str:
        return (
            f"that is a folder name (1 to {self.longest} bytes; no slash or control character, no dot or dash at "
            "the start, no dot or space at the end; not None, null, CON or NUL)"
        )


@dataclass(frozen=True)
class NotEmpty:
    """A text with at least one character that is not a space, or a list with at least one item."""

    def holds(self, value: str | list[object]) -> bool:
        """Return whether a text has a character that is not a space, or a list an item."""
        if isinstance(value, str):
            return bool(value.strip()) and "\0" not in value
        return bool(value)

    def __str__(self) -> str:
        return "that is not empty"


@dataclass(frozen=True)
class HasTarget:
    """The keys of an object to build."""

    def holds(self, value: object) -> bool:
        """Return whether a value has a `_target_`, which names what to build."""
        return isinstance(value, dict) and "_target_" in value

    def __str__(self) -> str:
        return "with a _target_"


@dataclass(frozen=True)
class Duration:
    """A positive duration in the format that `form` describes: DD:HH:MM:SS, or arguments of `datetime.timedelta`."""

    form: str

    def holds(self, value: str | dict[str, float]) -> bool:
        """Return whether the value is a positive duration."""
        return (seconds_of(value) or 0) > 0

    def __str__(self) -> str:
        return f"that is a positive duration in the form {self.form}"


def seconds_of(value: str | Mapping[str, float]) -> float | None:
    """Return the seconds of a duration in one of Lightning's formats; None if it is in none of them."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", value.strip())
        if match is None:
            return None
        days, hours, minutes, seconds = map(int, match.groups())
        value = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
    try:
        return timedelta(**value).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None


NotEmptyText = Annotated[str, NotEmpty()]
PositiveInt = Annotated[int, Range(at_least=1)]
CountFromZero = Annotated[int, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
PositiveFraction = Annotated[float, Range(above=0, at_most=1)]
BelowOne = Annotated[float, Range(at_least=0, below=1)]
Built = Annotated[Any, HasTarget()]
