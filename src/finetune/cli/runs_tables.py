"""What `finetune runs` prints: one line a run, one run, several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.config.commands import resume_command
from finetune.config.differences import shown
from finetune.config.durations import ago, span
from finetune.console import console, say
from finetune.runs.atomic import read_mapping
from finetune.runs.checkpoints import NO_CHECKPOINT
from finetune.runs.record import DAMAGED, DEAD, ENDED, REQUEUED, WAITING, Record
from finetune.runs.selection import Selection
from finetune.table_columns import Narrowing

_STYLES = {"finished": "green", "running": "cyan", "failed": "red", DEAD: "red", DAMAGED: "red", REQUEUED: "yellow"}
_GOES_ON = ("failed", "interrupted", DEAD)
_UNLIMITED = 10_000  # characters of a line
# Columns that a narrow terminal leaves out, the first first; never the name, the state, or a column that was asked for.
_EXPENDABLE = ("age", "job", "loss", "left", "step", "metric")
_LONGEST_REASON = 200  # characters in a list; `show` tells all


def print_list(found: Selection, chosen: Sequence[Record], columns: Sequence[str], root: Path) -> None:
    """Print a line a run, and below the table what is wrong with those that did not end well."""
    rows = [_row(record, columns) for record in chosen]
    # What no run has would only take the place of the names, which are long.
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if any(row[name] for row in rows)]

    def table_of(shown: Sequence[str]) -> Table:
        table = _table(*shown)
        for row in rows:
            table.add_row(*(Text(row[name], style=_STYLES.get(row[name], "")) for name in shown))
        return table

    if rows:
        _print(Narrowing(table_of, names, _EXPENDABLE))
    said = f"{len(found.records):,} of {found.total:,} runs in {root}"
    say(said + (f", {len(chosen):,} shown (-n 0 shows all)" if len(chosen) < len(found.records) else ""))
    for record in chosen:
        if record.reason:
            say(f"{record.name} is {record.state}: {_short(record.reason)}")
    for record in found.unreadable:
        say(f"{record.name} is left out: its config.yaml cannot be read.")


def _row(record: Record, columns: Sequence[str]) -> dict[str, str]:
    headline, loss, step = record.headline, record.metric("loss"), record.step
    return {
        "run": record.name,
        "state": record.state,
        "job": record.job or "",
        "step": "" if step is None else f"{step:,}",
        "loss": "" if loss is None else f"{loss:.4g}",
        "metric": "" if headline is None else f"{headline.metric} {headline.after:.4f}",
        **{name: _cell(record.value(name)) for name in columns},
        "age": span((datetime.now(UTC) - record.started).total_seconds()),
        "left": _now(record),
    }


def _now(record: Record) -> str:
    """What is happening: the time left, or for how long nothing was heard."""
    if record.state in (*ENDED, *WAITING, DEAD, DAMAGED):
        return ""
    eta, silent = record.status.get("eta_seconds"), (datetime.now(UTC) - record.last_update).total_seconds()
    left = f"{span(eta)} left" if isinstance(eta, int | float) and eta else ""
    return f"{left}, silent for {span(silent)}".lstrip(", ") if silent > 60 else left


def print_run(record: Record) -> None:
    """Print all that is worth knowing of one run."""
    say(record.name, style="bold")
    _print_pairs(_standing(record))
    environment = read_mapping(record.run.environment_path)
    git, versions = environment.get("git") or {}, environment.get("packages") or {}
    _print_pairs(
        {
            "command": environment.get("command"),
            "machine": environment.get("cpu"),
            "git": f"{git['sha']}{' (changed)' if git.get('dirty') else ''}" if git.get("sha") else None,
            "torch": versions.get("torch"),
        }
    )
    report = read_mapping(record.run.report_data_path)
    if evaluations := report.get("evaluations"):
        from finetune.report.terminal import metrics_table  # not needed for a list of runs

        for name, part in evaluations.items():
            _print(metrics_table(name, part))
    if record.state in _GOES_ON:
        if not record.run.saved.steps() and not record.run.last_checkpoint.is_file():
            say(NO_CHECKPOINT)
        say(f"resume with: {resume_command(record.run.path)}")
    elif record.status.get("cause") == "max_time" and record.run.last_checkpoint.is_file():
        say(f"train on with: {resume_command(record.run.path)} trainer.max_time=null")


def _standing(record: Record) -> dict[str, Any]:
    loss = record.metric("loss")
    there = {"model": record.run.model, "report": record.run.report_page_path, "checkpoint": record.run.last_checkpoint}
    return {
        "state": record.state + (f": {record.reason}" if record.reason else ""),
        "path": record.run.path,
        "started": ago(record.started.timestamp()),
        "last heard of": ago(record.last_update.timestamp()),
        "host": record.status.get("host"),
        "job": record.job,
        "step": record.step,
        "left": _now(record) or None,
        "loss": None if loss is None else f"{loss:.6g}",
        **{name: path for name, path in there.items() if path.exists()},
    }


def _print_pairs(pairs: Mapping[str, Any]) -> None:
    for name, value in pairs.items():
        if value is not None:
            say(f"  {name:<14} {value}")


def print_comparison(facts: Mapping[str, Any]) -> None:
    """Print what `compare_runs` found, a column a run."""
    table = _table("", *facts["runs"])
    table.add_row(Text("state"), *map(Text, facts["states"]))
    for title in ("config", "data", "environment", "metrics"):
        rows = facts[title]
        table.add_row()
        table.add_row(Text(title if rows else f"{title}: no difference", style="bold"))
        for name, values in rows.items():
            table.add_row(Text(f"  {name}"), *(Text(_cell(value)) for value in values))
    _print(table)
    for note in facts["notes"]:
        say(note)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        right = name in ("step", "loss", "before", "after", "change")
        # Folded, not cut off: a name is there to be typed.
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    return table


def _print(table: RenderableType) -> None:
    # A program that reads the lines has no width.
    wide = console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)
    wide.print(table, soft_wrap=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
