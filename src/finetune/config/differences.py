"""Where the configs of runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

# Keys that say where and how a run is started, not what it computes.
NOT_COMPARED = ("experiment", "name", "output_root", "resume", "check", "dry_run", "sweep")
# Keys that may change when a run resumes: where it computes, for how long, and when it saves, not what it computes.
_MAY_CHANGE = (
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.max_time",
    "callbacks.checkpoint.every_n_minutes",
)
_MOST_TOLD = 10  # of another config; more would scroll what matters out of sight
ABSENT = object()  # the value of a key that is not in a config
# What a run of an earlier version has, and the default of today that does the same: pattern of the key, then, now.
# A new key and a changed default need a line here (unless the key may change): without it no older run can be resumed.
_SAME_AS_BEFORE: tuple[tuple[str, Any, Any], ...] = (
    ("data.decimal", ABSENT, "auto"),
    ("data.score_values", ABSENT, None),
    ("loss*.right_from", 0.5, None),  # for scores of 0 to 1; for others null is refused
    ("model.normalize", True, "auto"),
)


def differences(trees: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Each key that differs, with its value in every config; a node that builds something else is told as a whole."""
    for key in dict.fromkeys(name for tree in trees for name in tree):
        if not prefix and key in NOT_COMPARED:
            continue
        values = [tree.get(key, ABSENT) for tree in trees]
        nodes = [value for value in values if isinstance(value, Mapping)]
        if len(nodes) == len(values) and all(node.get("_target_") == nodes[0].get("_target_") for node in nodes):
            yield from differences(nodes, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            yield f"{prefix}{key}", values


def value_of(tree: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key, ABSENT if there is none."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part, ABSENT) if isinstance(found, Mapping) else ABSENT
    return found


def keys_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a config, those of nodes too."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")


def shown(value: Any) -> str:
    """A value as one would write it in YAML; of a node what it builds."""
    if value is ABSENT:
        return "not there"
    if isinstance(value, Mapping):
        return str(value.get("_target_", "there"))
    # JSON is YAML on one line, and its words are those of the configs: null, true.
    return value if isinstance(value, str) else json.dumps(value, default=str)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs of what is computed, at most ten lines and one that counts the rest; empty if nothing.

    A default of today that does what an earlier version did is no difference.
    """
    found = [
        f"{key} was {shown(old)}, now {shown(new)}"
        for key, (old, new) in differences([then, now])
        if not _may_change(key) and not _is_same_as_before(key, old, new)
    ]
    rest = len(found) - _MOST_TOLD
    return found if rest <= 0 else [*found[:_MOST_TOLD], f"and {rest} more"]


def _may_change(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in _MAY_CHANGE)


def _is_same_as_before(key: str, then: Any, now: Any) -> bool:
    return any(fnmatchcase(key, pattern) and (then, now) == (old, new) for pattern, old, new in _SAME_AS_BEFORE)
