"""What differs between two configs of a run, a line each, in the words that one would type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# Keys that say where and how a run is started, not what it computes: they may differ when it goes on.
_NOT_COMPARED = ("experiment", "name", "output_root", "resume", "check")
_MOST_DIFFERENCES = 10  # told of another config; more would scroll what matters out of sight
_ABSENT = object()


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs of what is computed, at most ten lines and one that counts the rest; empty if nothing."""
    found = list(_differences(then, now, ""))
    rest = len(found) - _MOST_DIFFERENCES
    return found if rest <= 0 else [*found[:_MOST_DIFFERENCES], f"and {rest} more"]


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str) -> Iterator[str]:
    """A node that builds something else is told as a whole, not by all that is in it."""
    for key in sorted({**then, **now}):
        if not prefix and key in _NOT_COMPARED:
            continue
        old, new = then.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict) and old.get("_target_") == new.get("_target_"):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    """A value as one would write it in YAML; of a node what it builds."""
    if value is _ABSENT:
        return "not there"
    if isinstance(value, dict):
        return str(value.get("_target_", "there"))
    # JSON is YAML on one line, and its words are those of the configs: null, true.
    return value if isinstance(value, str) else json.dumps(value, default=str)
