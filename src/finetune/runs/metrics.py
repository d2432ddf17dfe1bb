"""Metrics of a run by name, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError
from finetune.runs.atomic import to_json

_UNTOUCHED = "/before/"  # of the model as it came: no result of the run


def last_value(path: Path, name: str) -> float | None:
    """The last value of a metric in a metrics.jsonl, found from its end; None if there is none.

    `name` is the whole name, or what stands behind a slash in it: `nDCG@10` is also that of
    `retrieval/after/nDCG@10`.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            exact = _search(text, name, '"')
            return _search(text, name, "/") if exact is None else exact
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None


def _search(text: mmap.mmap, name: str, before: str) -> float | None:
    needle = (before + to_json(name)[1:] + ":").encode("utf-8", "backslashreplace")
    end = len(text)
    while (found := text.rfind(needle, 0, end)) >= 0:
        end = text.rfind(b"\n", 0, found) + 1
        stop = text.find(b"\n", found)
        values = numbers(_record(text[end : stop if stop >= 0 else len(text)]))
        for key, value in values.items():
            if key == name or (before == "/" and is_short_for(name, key)):
                return value
    return None


def _record(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None


def numbers(record: Any) -> dict[str, float]:
    """The finite numbers of one record by their names, without its step."""
    pairs = record.items() if isinstance(record, Mapping) else ()
    return {
        key: value
        for key, value in pairs
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def last_values(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of every metric, in the order in which they came up."""
    values: dict[str, float] = {}
    for record in records:
        values |= numbers(record)
    return values


def curve(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The points (step, value) of a metric, in the order of the steps."""
    points = [(record.get("step") or 0, found[name]) for record in records if name in (found := numbers(record))]
    return sorted(points, key=lambda point: point[0])


def resolve_metric_name(name: str, names: Iterable[str], whose: str) -> str:
    """The name among `names` that `name` is, or is short for; raises FinetuneError."""
    names = list(names)
    if name in names:
        return name
    longer = [each for each in names if is_short_for(name, each)]
    if len(longer) == 1:
        return longer[0]
    if longer:
        raise FinetuneError(f"'{name}' can be several metrics of {whose}.", f"Give one: {', '.join(longer)}.")
    advice = did_you_mean(name, names) or (f"There are: {', '.join(names)}." if names else "It has logged none yet.")
    raise FinetuneError(f"{whose} has no metric '{name}'.", advice)


def is_short_for(name: str, whole: str) -> bool:
    """Whether a metric's name is the end of its whole name, behind a slash."""
    return whole.endswith(f"/{name}") and _UNTOUCHED not in whole
