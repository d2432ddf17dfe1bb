"""Filtering and sorting runs, by conditions as typed: `optimizer.lr<=1e-4`, `model.name=*MiniLM*`, `7d`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from finetune.config.differences import ABSENT, as_yaml, keys_of, value_of
from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError, RunError
from finetune.runs.metrics import is_short_for, last_values
from finetune.runs.record import STATES, Record, read_runs
from finetune.runs.registry import run_folders

_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_AGO = re.compile(r"(\d+)\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_SORT_KEYS: dict[str, Callable[[Record], Any]] = {
    "started": lambda record: record.started.timestamp(),
    "run": lambda record: record.name,
    "state": lambda record: record.state,
    "step": lambda record: record.step,
}


@dataclass(frozen=True)
class RunQuery:
    """Filters and order as typed; all conditions must hold, but a run needs only one of the states."""

    experiment: Sequence[str] = ()
    state: Sequence[str] = ()
    where: Sequence[str] = ()
    metric: Sequence[str] = ()
    since: str | None = None
    sort: str = "started"
    reverse: bool = False


@dataclass(frozen=True)
class Selection:
    """The matching runs in order, the number of all runs, and the runs left out because of an unreadable config."""

    records: list[Record]
    total: int
    unreadable: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Condition:
    """`name sign value`; numbers are compared as numbers, texts as they are or as a pattern with `*` and `?`."""

    name: str
    sign: str
    value: str

    def holds(self, found: Any) -> bool:
        """Whether the condition is true of a value; it is false of a missing one."""
        if found is ABSENT:
            return False
        number, bound = _number(found), _number(self.value)
        if self.sign in ("=", "!="):
            is_equal = number == bound
            if number is None or bound is None:
                is_equal = self._matches(found)
            return is_equal == (self.sign == "=")
        if number is None or bound is None:
            return False
        larger, equal = number > bound, number == bound
        return {"<": not larger and not equal, "<=": not larger, ">": larger, ">=": larger or equal}[self.sign]

    def _matches(self, found: Any) -> bool:
        text = as_yaml(found)
        if isinstance(found, Mapping):
            # A config node is compared by the class that it builds: loss=triplet is finetune.losses.triplet.Triplet.
            text = text.rpartition(".")[2]
        text, wanted = text.casefold(), self.value.casefold()
        return text == wanted or fnmatchcase(text, wanted)


def parse_condition(text: str, example: str) -> Condition:
    """Parse one condition.

    Raises:
        FinetuneError: it cannot be parsed; the message shows the `example`.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        advice = f"Write a name, one of = != < <= > >=, and a value: {example}"
        raise FinetuneError(f"'{text}' is not a condition.", advice)
    condition = Condition(*found.groups())
    if condition.sign not in ("=", "!=") and _number(condition.value) is None:
        what = f"'{text}' compares with '{condition.value}', which is not a number."
        raise FinetuneError(what, f"For example: {example}")
    return condition


def parse_time(text: str, now: datetime) -> datetime:
    """Parse a time: relative to `now` (30m, 12h, 7d, 2w), or a date or time in the time zone of this machine.

    Raises:
        FinetuneError: it is neither.
    """
    try:
        ago = _AGO.fullmatch(text.strip())
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FinetuneError(f"'{text}' is not a time.", "Write 30m, 12h, 7d, 2w, or a date: 2026-11-20.") from error


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def select(root: Path, query: RunQuery) -> Selection:
    """Return the runs below `root` that match the query.

    Raises:
        FinetuneError: a part of the query cannot be parsed, or a name in it is in none of the runs.
    """
    states = _parse_states(query.state)
    where = [parse_condition(text, "-w 'optimizer.lr<=1e-4'") for text in query.where]
    metric = [parse_condition(text, "-m 'nDCG@10>0.3'") for text in query.metric]
    since = None if query.since is None else parse_time(query.since, datetime.now(UTC))
    folders = run_folders(root)
    # Filter by the folder first: the files of other experiments are not even opened.
    candidates = read_runs([path for path in folders if _is_of_experiment(path.parent.name, query.experiment)])
    records = [record for record in candidates if not states or record.state in states]
    records = [record for record in records if since is None or record.started >= since]
    unreadable = [record for record in records if where and record.config is None]
    records = [record for record in records if all(_config_holds(record, each) for each in where)]
    records = [record for record in records if all(_metric_holds(record, each) for each in metric)]
    if not records:
        _check_names(candidates, where, metric)
    return Selection(_sorted(records, query.sort, query.reverse), len(folders), unreadable)


def _parse_states(names: Sequence[str]) -> set[str]:
    states = {name.strip() for text in names for name in text.split(",")}
    for name in sorted(states - {*STATES}):
        advice = did_you_mean(name, STATES) or f"There are: {', '.join(STATES)}."
        raise FinetuneError(f"there is no state '{name}'.", advice)
    return states


def _is_of_experiment(experiment: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(experiment, pattern) for pattern in patterns)


def _config_holds(record: Record, condition: Condition) -> bool:
    return record.config is not None and condition.holds(value_of(record.config, condition.name))


def _metric_holds(record: Record, condition: Condition) -> bool:
    value = record.metric(condition.name)
    return condition.holds(ABSENT if value is None else value)


def _check_names(records: Sequence[Record], where: Sequence[Condition], metric: Sequence[Condition]) -> None:
    """Raise FinetuneError for a name that is in none of the runs: an empty list would suggest that none matches."""
    if where:
        keys = {key for record in records if record.config for key in keys_of(record.config)}
        _check_known("config value", where, keys, keys)
    if metric:
        metrics = {name for record in records for name in _metrics(record)}
        short_names = {name.rpartition("/")[2] for name in metrics}
        _check_known("metric", metric, metrics, metrics | short_names)


def _check_known(kind: str, conditions: Iterable[Condition], known: set[str], accepted: set[str]) -> None:
    for condition in conditions:
        name = condition.name
        if known and name not in accepted and not any(is_short_for(name, each) for each in known):
            advice = did_you_mean(name, accepted) or "`finetune runs show RUN --json` lists those of one run."
            raise FinetuneError(f"no run here has a {kind} '{name}'.", advice)


def _metrics(record: Record) -> dict[str, float]:
    try:
        return last_values(record.run.read_metrics())
    except RunError:
        return {}


def _sorted(records: list[Record], name: str, reverse: bool) -> list[Record]:
    """Sort by numbers, largest first, then by texts; runs without a value are last, of equal ones the newest first."""
    records = sorted(records, key=lambda record: record.started, reverse=True)
    numbers: list[tuple[Any, Record]] = []
    texts: list[tuple[Any, Record]] = []
    without_value: list[Record] = []
    for record in records:
        value = _SORT_KEYS[name](record) if name in _SORT_KEYS else record.value(name)
        if isinstance(value, int | float):
            numbers.append((value, record))
        elif isinstance(value, str):
            texts.append((value, record))
        else:
            without_value.append(record)
    if records and len(without_value) == len(records):
        what = f"no run here has '{name}' to sort by."
        advice = f"Sort by {', '.join(_SORT_KEYS)}, a metric (nDCG@10) or a config key (optimizer.lr)."
        raise FinetuneError(what, advice)
    numbers.sort(key=lambda pair: pair[0], reverse=not reverse)
    texts.sort(key=lambda pair: pair[0], reverse=reverse)
    return [record for _, record in [*numbers, *texts]] + without_value
