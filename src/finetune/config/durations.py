"""Times in words, as people say them."""

from __future__ import annotations

import time

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def span(seconds: float) -> str:
    """A length of time in its largest unit: `3 hours`, `40 s`."""
    for unit, length in _UNITS:
        if seconds >= length:
            count = int(seconds / length)
            return f"{count:,} {unit}{'' if count == 1 else 's'}"
    return f"{max(0.0, seconds):.0f} s"


def ago(moment: float) -> str:
    """How long ago a moment was, in seconds since 1970; one to come is now, since clocks differ."""
    seconds = time.time() - moment
    return f"{span(seconds)} ago" if seconds >= 60 else "just now"
