"""Durations as text."""

from __future__ import annotations

import time

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def span(seconds: float) -> str:
    """Return a duration in its largest unit: `3 hours`, `40 s`."""
    for unit, length in _UNITS:
        if seconds >= length:
            count = int(seconds / length)
            plural = "" if count == 1 else "s"
            return f"{count:,} {unit}{plural}"
    return f"{max(0.0, seconds):.0f} s"


def ago(moment: float) -> str:
    """Return how long ago a time was, in seconds since 1970; a future time is now, because clocks differ."""
    seconds = time.time() - moment
    if seconds < 60:
        return "just now"
    return f"{span(seconds)} ago"
