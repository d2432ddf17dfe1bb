"""Differences between the configs of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from finetune.config.renames import current_target

# Keys that determine where and how a run is started, not what it computes.
NOT_COMPARED = ("experiment", "name", "output_root", "resume", "collective_timeout", "check", "dry_run", "sweep")
# Keys that may change when a run resumes: hardware, duration and checkpoints, not what it computes.
_MAY_CHANGE = (
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.max_time",
    "callbacks.checkpoint.every_n_minutes",
)
_MOST_LISTED = 10  # differences in a message
ABSENT = object()  # the value of a key that is not in a config
# Pattern of a key, its value in runs of earlier versions, and the current default with the same effect.
# Every new key and changed default needs a line here (unless the key may change), or older runs cannot be resumed.
_SAME_AS_BEFORE: tuple[tuple[str, Any, Any], ...] = (
    ("data.decimal", ABSENT, "auto"),
    ("data.score_values", ABSENT, None),
    ("evaluation.*.metrics", ABSENT, []),
    ("evaluation.*.metrics", ABSENT, ["AP", "F1"]),
    ("evaluation.*.metrics", ABSENT, ["V-measure"]),
    ("evaluation.*.metrics", ABSENT, ["accuracy"]),
    ("loss*.right_from", 0.5, None),  # for scores of 0 to 1; for others null is refused
    ("model.normalize", True, "auto"),
    ("negatives", ABSENT, {}),
)


def differences(trees: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield each key that differs, with its value in every config; nodes with different targets differ as a whole."""
    for key in dict.fromkeys(name for tree in trees for name in tree):
        if not prefix and key in NOT_COMPARED:
            continue
        values = [tree.get(key, ABSENT) for tree in trees]
        if key == "_target_":
            values = [current_target(value) for value in values]
        nodes = [value for value in values if isinstance(value, Mapping)]
        targets = {str(current_target(node.get("_target_"))) for node in nodes}
        if len(nodes) == len(values) and len(targets) == 1:
            yield from differences(nodes, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            yield f"{prefix}{key}", values


def value_of(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, ABSENT if there is none."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part, ABSENT) if isinstance(found, Mapping) else ABSENT
    return found


def keys_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a config, including those of nodes."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")


def as_yaml(value: Any) -> str:
    """Return a value as in YAML; a node is represented by its target."""
    if value is ABSENT:
        return "missing"
    if isinstance(value, Mapping):
        return str(value.get("_target_", "present"))
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)  # JSON is YAML on one line, with the same null and true


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences that affect the computation: at most ten lines, and one with the number of others.

    A current default with the same effect as in an earlier version is not a difference.
    """
    found = [
        f"{key} was {as_yaml(old)}, now {as_yaml(new)}"
        for key, (old, new) in differences([then, now])
        if not _may_change(key) and not _is_same_as_before(key, old, new)
    ]
    rest = len(found) - _MOST_LISTED
    if rest <= 0:
        return found
    return [*found[:_MOST_LISTED], f"and {rest} more"]


def _may_change(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in _MAY_CHANGE)


def _is_same_as_before(key: str, then: Any, now: Any) -> bool:
    return any(fnmatchcase(key, pattern) and (then, now) == (old, new) for pattern, old, new in _SAME_AS_BEFORE)
