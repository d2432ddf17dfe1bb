"""Which runs are meant, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from finetune.config.differences import ABSENT, keys_of, value_of
from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError, RunError
from finetune.runs.filters import Condition, parse_condition, parse_time
from finetune.runs.metrics import is_short_for, last_values
from finetune.runs.record import STATES, Record, read_runs
from finetune.runs.registry import run_folders

_FIXED: dict[str, Callable[[Record], Any]] = {
    "started": lambda record: record.started.timestamp(),
    "run": lambda record: record.name,
    "state": lambda record: record.state,
    "step": lambda record: record.step,
}


@dataclass(frozen=True)
class RunQuery:
    """What was asked for, as typed; conditions of the same kind all hold, except that one state is enough."""

    experiment: Sequence[str] = ()
    state: Sequence[str] = ()
    where: Sequence[str] = ()
    metric: Sequence[str] = ()
    since: str | None = None
    sort: str = "started"
    reverse: bool = False


@dataclass(frozen=True)
class Selection:
    """The runs that fit, in order; how many there are at all; and whose config could not be looked at."""

    records: list[Record]
    total: int
    unreadable: list[Record] = field(default_factory=list)


def select(root: Path, wish: RunQuery) -> Selection:
    """The runs below `root` that fit; raises FinetuneError for a wish that cannot be read."""
    states = _states(wish.state)
    where = [parse_condition(text, "-w 'optimizer.lr<=1e-4'") for text in wish.where]
    metric = [parse_condition(text, "-m 'nDCG@10>0.3'") for text in wish.metric]
    since = None if wish.since is None else parse_time(wish.since, datetime.now(UTC))
    folders = run_folders(root)
    # By their folder first: what is left out then is not even opened.
    wanted = [path for path in folders if _is_of(path.parent.name, wish.experiment)]
    there = read_runs(wanted)
    records = [record for record in there if not states or record.state in states]
    records = [record for record in records if since is None or record.started >= since]
    unreadable = [record for record in records if where and record.config is None]
    records = [record for record in records if all(_config_holds(record, each) for each in where)]
    rated = [record for record in records if all(_metric_holds(record, each) for each in metric)]
    if not rated:
        _check_known(there, where, metric)
    return Selection(_sorted(rated, wish.sort, wish.reverse), len(folders), unreadable)


def _states(names: Sequence[str]) -> set[str]:
    states = {name.strip() for text in names for name in text.split(",")}
    for name in sorted(states - {*STATES}):
        advice = did_you_mean(name, STATES) or f"There are: {', '.join(STATES)}."
        raise FinetuneError(f"there is no state '{name}'.", advice)
    return states


def _is_of(experiment: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(experiment, pattern) for pattern in patterns)


def _config_holds(record: Record, wanted: Condition) -> bool:
    return record.config is not None and wanted.holds(value_of(record.config, wanted.name))


def _check_known(records: Sequence[Record], where: Sequence[Condition], metric: Sequence[Condition]) -> None:
    """Raise FinetuneError for a name that none of the runs has: an empty list would say that none fits."""
    configs = [record.config for record in records if record.config]
    keys = {key for config in configs for key in keys_of(config)} if where else set()
    metrics = {name for record in records for name in _metrics(record)} if metric else set()
    asked = [("config value", each.name, keys, keys) for each in where]
    asked += [
        ("metric", each.name, metrics, metrics | {name.rpartition("/")[2] for name in metrics}) for each in metric
    ]
    for kind, name, known, short in asked:
        if known and name not in short and not any(is_short_for(name, each) for each in known):
            what = f"no run here has a {kind} '{name}'."
            raise FinetuneError(
                what, did_you_mean(name, short) or "`finetune runs show RUN --json` has all of one run."
            )


def _metrics(record: Record) -> dict[str, float]:
    try:
        return last_values(record.run.read_metrics())
    except RunError:
        return {}


def _metric_holds(record: Record, wanted: Condition) -> bool:
    value = record.metric(wanted.name)
    return wanted.holds(ABSENT if value is None else value)


def _sorted(records: list[Record], name: str, reverse: bool) -> list[Record]:
    """Numbers, the largest first, then texts by their letters; those without a value are last, of equals the newest."""
    records = sorted(records, key=lambda record: record.started, reverse=True)
    values = {id(record): _FIXED[name](record) if name in _FIXED else record.value(name) for record in records}
    numbers = [record for record in records if isinstance(values[id(record)], int | float)]
    texts = [record for record in records if isinstance(values[id(record)], str)]
    rest = [record for record in records if record not in numbers and record not in texts]
    if records and len(rest) == len(records):
        what = f"no run here has '{name}' to sort by."
        raise FinetuneError(what, f"Sort by {', '.join(_FIXED)}, a metric (nDCG@10) or a config key (optimizer.lr).")
    numbers.sort(key=lambda record: values[id(record)], reverse=not reverse)
    texts.sort(key=lambda record: values[id(record)], reverse=reverse)
    return [*numbers, *texts, *rest]
