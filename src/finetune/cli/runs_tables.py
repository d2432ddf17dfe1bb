"""The tables of `finetune runs`: a list of runs, one run, several runs compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.config.commands import resume_command
from finetune.config.differences import as_yaml
from finetune.config.durations import ago, span
from finetune.console import console, say
from finetune.runs.atomic import read_mapping
from finetune.runs.checkpoints import NO_CHECKPOINT
from finetune.runs.record import DAMAGED, DEAD, ENDED, REQUEUED, WAITING, Record
from finetune.runs.selection import Selection
from finetune.table_columns import ResponsiveTable

_STYLES = {"finished": "green", "running": "cyan", "failed": "red", DEAD: "red", DAMAGED: "red", REQUEUED: "yellow"}
_RESUMABLE = ("failed", "interrupted", DEAD)
_UNLIMITED = 10_000  # characters of a line
# Columns that are dropped, in this order, in a narrow terminal; never the name, the state, or a column of --column.
_EXPENDABLE = ("age", "job", "loss", "left", "step", "metric")
_LONGEST_REASON = 200  # characters in the list; `finetune runs show` prints all of it


def print_list(found: Selection, chosen: Sequence[Record], columns: Sequence[str], root: Path) -> None:
    """Print a table with one row for each run, and below it the reasons of those that failed or were stopped."""
    rows = [_row(record, columns) for record in chosen]
    # Empty columns are left out, because the names are long.
    filled = {name for row in rows for name, cell in row.items() if cell}
    names = [name for name in rows[0] if name in filled] if rows else []

    def table_of(columns: Sequence[str]) -> Table:
        table = _table(*columns)
        for row in rows:
            table.add_row(*(Text(row[name], style=_STYLES.get(row[name], "")) for name in columns))
        return table

    if rows:
        _print(ResponsiveTable(table_of, names, _EXPENDABLE))
    summary = f"{len(found.records):,} of {found.total:,} runs in {root}"
    if len(chosen) < len(found.records):
        summary += f", {len(chosen):,} shown (-n 0 shows all)"
    say(summary)
    if not found.total:
        say("There are no runs yet. Train one: finetune train data.path=pairs.csv")
    for record in chosen:
        if record.reason:
            say(f"{record.name} is {record.state}: {_short(record.reason)}")
    for record in found.unreadable:
        say(f"{record.name} is left out: its config.yaml is unreadable.")


def _row(record: Record, columns: Sequence[str]) -> dict[str, str]:
    """Return the cells of a run by column; every run has the same columns in the same order."""
    headline, loss, step = record.headline, record.metric("loss"), record.step
    row = {"run": record.name, "state": record.state, "job": record.job or "", "step": "", "loss": "", "metric": ""}
    if step is not None:
        row["step"] = f"{step:,}"
    if loss is not None:
        row["loss"] = f"{loss:.4g}"
    if headline is not None:
        row["metric"] = f"{headline.metric} {headline.after:.4f}"
    for name in columns:
        row[name] = _cell(record.value(name))
    row["age"] = span((datetime.now(UTC) - record.started).total_seconds())
    row["left"] = _progress(record)
    return row


def _progress(record: Record) -> str:
    """Return the remaining time of an active run, and how long ago it last updated its status if over a minute."""
    if record.state in (*ENDED, *WAITING, DEAD, DAMAGED):
        return ""
    parts = []
    eta = record.status.get("eta_seconds")
    if isinstance(eta, int | float) and eta:
        parts.append(f"{span(eta)} left")
    silent = (datetime.now(UTC) - record.last_update).total_seconds()
    if silent > 60:
        parts.append(f"silent for {span(silent)}")
    return ", ".join(parts)


def print_run(record: Record) -> None:
    """Print the state, the environment and the results of one run."""
    say(record.name, style="bold")
    _print_pairs(_state(record))
    environment = read_mapping(record.run.environment_path)
    versions = environment.get("packages") or {}
    _print_pairs(
        {
            "command": environment.get("command"),
            "machine": environment.get("cpu"),
            "git": _commit(environment.get("git") or {}),
            "torch": versions.get("torch"),
        }
    )
    output = record.status.get("output") or []
    if record.state == DEAD:
        output = record.run.last_output(0)
    for line in output:
        say(f"  | {line}")
    report = read_mapping(record.run.report_data_path)
    evaluations = report.get("evaluations")
    if evaluations:
        from finetune.report.terminal import metrics_table  # not needed for a list of runs

        for name, part in evaluations.items():
            _print(metrics_table(name, part))
    if record.state in _RESUMABLE:
        if not record.run.saved.steps() and not record.run.last_checkpoint.is_file():
            say(NO_CHECKPOINT)
        say(f"resume with: {resume_command(record.run.path)}")
    elif record.status.get("cause") == "max_time" and record.run.last_checkpoint.is_file():
        say(f"continue training with: {resume_command(record.run.path)} trainer.max_time=null")


def _state(record: Record) -> dict[str, Any]:
    loss, run = record.metric("loss"), record.run
    files = {"model": run.model, "report": run.report_page_path, "checkpoint": run.last_checkpoint}
    return {
        "state": f"{record.state}: {record.reason}" if record.reason else record.state,
        "path": run.path,
        "started": ago(record.started.timestamp()),
        "last update": ago(record.last_update.timestamp()),
        "host": record.status.get("host"),
        "job": record.job,
        "step": record.step,
        "left": _progress(record) or None,
        "loss": None if loss is None else f"{loss:.6g}",
        **{name: path for name, path in files.items() if path.exists()},
    }


def _commit(git: Mapping[str, Any]) -> str | None:
    sha = git.get("sha")
    return f"{sha} (changed)" if sha and git.get("dirty") else sha


def _print_pairs(pairs: Mapping[str, Any]) -> None:
    for name, value in pairs.items():
        if value is not None:
            say(f"  {name:<14} {value}")


def print_comparison(facts: Mapping[str, Any]) -> None:
    """Print the comparison that `compare_runs` returns, with one column for each run."""
    table = _table("", *facts["runs"])
    table.add_row(Text("state"), *map(Text, facts["states"]))
    for title in ("config", "data", "environment", "metrics"):
        rows = facts[title]
        table.add_row()
        heading = title if rows else f"{title}: no difference"
        table.add_row(Text(heading, style="bold"))
        for name, values in rows.items():
            table.add_row(Text(f"  {name}"), *(Text(_cell(value)) for value in values))
    _print(table)
    for note in facts["notes"]:
        say(note)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        is_number = name in ("step", "loss", "before", "after", "change")
        # Folded and not cut off, so that a name can be copied.
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    return table


def _print(table: RenderableType) -> None:
    if console.is_terminal:
        console.print(table, soft_wrap=False)
    else:  # another program reads the lines, so they are not wrapped
        Console(highlight=False, width=_UNLIMITED).print(table, soft_wrap=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return as_yaml(value)


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    if len(line) > _LONGEST_REASON:
        return f"{line[:_LONGEST_REASON]}..."
    return line
