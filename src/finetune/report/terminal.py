"""What the terminal shows of a report: the headline of each evaluation, and its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.report import comparison as sides
from finetune.report import content
from finetune.report.charts import kind_of
from finetune.report.escaping import one_line
from finetune.table_columns import ResponsiveTable

_COLOURS = {"better": "green", "worse": "red", "same": "default"}


# What a narrow terminal leaves out, the first first.
_EXPENDABLE = (content.CASES, content.INTERVAL, content.CHANGE)


def metrics_table(name: str, part: Mapping[str, Any]) -> ResponsiveTable:
    """The metrics of one evaluation; certain changes in colour and marked, so that colour is not needed.

    A narrow terminal shows fewer columns, but always the metric with its values.
    """
    wanted = content.metrics_table(part)
    legend = [f"* {content.CERTAIN}"] if any(row.get("certain") for row in part["metrics"]) else []
    lines = [part["headline"], *legend, *content.without_model(part)]
    caption = "\n".join(one_line(line, 400) for line in lines)

    def table_of(columns: Sequence[str]) -> Table:
        table = _empty(columns, f"{name}: {part['judgments']}", caption, fixed=True)
        for cells, row in zip(wanted.rows, part["metrics"], strict=True):
            colour = _COLOURS[kind_of(row)] if "change" in row else "default"
            shown = [cell for column, cell in zip(wanted.columns, cells, strict=True) if column in columns]
            table.add_row(*(Text(one_line(cell)) for cell in shown), style=colour)
        return table

    return ResponsiveTable(table_of, wanted.columns, _EXPENDABLE)


def comparison(facts: Mapping[str, Any]) -> Iterator[Table]:
    """The metrics of several runs, a table for each evaluation, and where their configs differ."""
    for name in facts["findings"]:
        yield _side_by_side(sides.metrics_table(facts, name), name, "in brackets: the change from before; * certain")
    if facts["config"]:
        yield _side_by_side(sides.differences_table(facts, "config"), "where the configs differ", "")


def _side_by_side(wanted: content.Table, title: str, caption: str) -> Table:
    table = _empty(wanted.columns, title, caption)
    for cells in wanted.rows:
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def _empty(columns: Sequence[str], title: str, caption: str, *, fixed: bool = False) -> Table:
    # Without lines all of it fits into 80 characters; what does not is folded, not cut off.
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left", caption_justify="left")
    table.title, table.caption = Text(f"\n{one_line(title)}", "bold"), Text(f"{caption}\n" if caption else "")
    for place, column in enumerate(columns):
        table.add_column(
            Text(one_line(column)), justify="right" if place else "left", no_wrap=fixed and place > 0, overflow="fold"
        )
    return table


def headlines(report: Mapping[str, Any]) -> list[str]:
    """What each evaluation found, in plain words, and below them the numbers."""
    found = [one_line(line, 600) for line in content.outcome(report)]
    for name, part in content.judged(report).items():
        found.append(one_line(f"{name}: {part['headline']}", 400))
        verdict = content.verdict(name, part)
        if verdict.kind != "once":
            _, before, after, _, interval, cases = content.changed(verdict.row["metric"], verdict.row)
            found.append(
                f"  {before} -> {after}, 95 % interval {interval}; {cases} {one_line(verdict.cases)} won / lost / tied"
            )
    return found if content.judged(report) else [*found, "not evaluated (evaluation=none)"]
