"""Types for config values, with their ranges, used as annotations by everything a config can build.

The check reads these annotations from the source text, so that a wrong value is answered without
importing what would be built. Only names from this module, builtins and `typing` may stand in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Bounds of a finite number; `None` leaves a side open, `above` and `below` exclude their own value."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies within the bounds; infinity and not-a-number never do."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {
            "of at least": self.at_least,
            "above": self.above,
            "of at most" if self.at_least is None and self.above is None else "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{words} {bound:.12g}" for words, bound in bounds.items() if bound is not None)


# What a user means as no name, and what is a device on Windows.
_RESERVED = re.compile(r"None|null|((CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?)", re.IGNORECASE)


@dataclass(frozen=True)
class FolderName:
    """A text that can be the name of one folder on every common file system."""

    longest: int = 200  # bytes; file systems end at 255, and suffixes for uniqueness come after the name

    def holds(self, value: str) -> bool:
        """Whether the text names one visible folder below its parent."""
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
            f"that can name a folder (1 to {self.longest} bytes; no slash or control character, no dot or dash in "
            "front, no dot or space at its end; not None, null, CON or NUL)"
        )


@dataclass(frozen=True)
class NotEmpty:
    """A text with at least one character that is not a space, or a list with at least one item."""

    def holds(self, value: str | list[object]) -> bool:
        """Whether anything but spaces is there."""
        return bool(value.strip()) and "\0" not in value if isinstance(value, str) else bool(value)

    def __str__(self) -> str:
        return "that is not empty"


@dataclass(frozen=True)
class Duration:
    """A length of time above zero, as `form` shows: DD:HH:MM:SS, or a mapping as `datetime.timedelta` takes it."""

    form: str

    def holds(self, value: str | dict[str, float]) -> bool:
        """Whether the value is such a length of time."""
        return (seconds_of(value) or 0) > 0

    def __str__(self) -> str:
        return f"that is a time above zero in the form {self.form}"


def seconds_of(value: str | Mapping[str, float]) -> float | None:
    """Return the seconds of a length of time in one of Lightning's forms; `None` if it is in none of them."""
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
