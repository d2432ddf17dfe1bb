"""Reports in the terminal: the headline of each evaluation, tables of metrics, and comparisons of runs and models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from finetune.evaluation.metric_names import format_value
from finetune.report import comparison as run_comparison
from finetune.report import content
from finetune.report.charts import kind_of
from finetune.report.escaping import one_line
from finetune.table_columns import ResponsiveTable

if TYPE_CHECKING:
    from finetune.evaluation.result import Result

_COLORS = {"better": "green", "worse": "red", "same": "default"}
# Columns that are left out in a narrow terminal, in this order.
_EXPENDABLE = (content.CASES, content.INTERVAL, content.CHANGE)
_NUMBER_WIDTH = len("0.000")
_MODELS_LEGEND = "in brackets: against the first model; * certain: the 95 % interval excludes zero"


def metrics_table(name: str, part: Mapping[str, Any]) -> ResponsiveTable:
    """Return the metrics of one evaluation; certain changes are marked, and colored in addition.

    A narrow terminal shows fewer columns, but always the metric with its values.
    """
    table = content.metrics_table(part)
    lines = [part["headline"]]
    if any(row.get("certain") for row in part["metrics"]):
        lines.append(f"* {content.CERTAIN}")
    lines += content.baseline_notes(part)
    caption = "\n".join(one_line(line, 400) for line in lines)

    def with_columns(columns: Sequence[str]) -> Table:
        narrowed = _empty_table(columns, f"{name}: {part['judgments']}", caption, fixed=True)
        for cells, row in zip(table.rows, part["metrics"], strict=True):
            color = "default"
            if "change" in row:
                color = _COLORS[kind_of(row)]
            kept = [cell for column, cell in zip(table.columns, cells, strict=True) if column in columns]
            narrowed.add_row(*(Text(one_line(cell)) for cell in kept), style=color)
        return narrowed

    return ResponsiveTable(with_columns, table.columns, _EXPENDABLE)


def comparison(facts: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table of the metrics of several runs for each evaluation, and one of the differences of their configs."""
    for name in facts["findings"]:
        legend = "in brackets: the change from before; * certain"
        yield _filled_table(run_comparison.metrics_table(facts, name), name, legend)
    if facts["config"]:
        yield _filled_table(run_comparison.differences_table(facts, "config"), "differences of the configs", "")


def models_table(name: str, results: Mapping[str, Result]) -> Table:
    """Return the metrics of one evaluator, a column for each model in the order of `results`, then the baselines."""
    from finetune.evaluation.comparison import compare
    from finetune.report.report_data import change_data, format_counts

    models = list(results)
    first = results[models[0]]
    comparisons = {model: compare(first, results[model]) for model in models[1:]}
    lines = [f"{one_line(model)}: {each.verdict}" for model, each in comparisons.items()]
    if comparisons:
        lines.append(_MODELS_LEGEND)
    table = _empty_table(("metric", *models, *first.baselines), "", "")
    table.title = Text(one_line(f"{name}: {first.name} ({format_counts(first.counts)})"))
    table.caption = Text("\n".join(lines))
    table.columns[0].no_wrap = True
    table.columns[0].overflow = "ellipsis"
    for column in table.columns[1:]:
        column.min_width = _NUMBER_WIDTH  # so that names are folded rather than numbers
    changes = [{row.metric: change_data(row.change) for row in each.rows} for each in comparisons.values()]
    for metric, mean in first.means.items():
        cells = [metric, format_value(mean)]
        cells += [content.metric_cell(each[metric]) for each in changes]
        cells += [format_value(means[metric]) if metric in means else "" for means in first.baselines.values()]
        table.add_row(*map(Text, cells))
    return table


def _filled_table(table: content.Table, title: str, caption: str) -> Table:
    filled = _empty_table(table.columns, title, caption)
    for cells in table.rows:
        filled.add_row(*(Text(one_line(cell)) for cell in cells))
    return filled


def _empty_table(columns: Sequence[str], title: str, caption: str, *, fixed: bool = False) -> Table:
    # Without borders, to fit into 80 characters; longer cells are folded, not cut off.
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left", caption_justify="left")
    table.title = Text(f"\n{one_line(title)}", "bold")
    if caption:
        caption += "\n"
    table.caption = Text(caption)
    for place, column in enumerate(columns):
        table.add_column(
            Text(one_line(column)), justify="right" if place else "left", no_wrap=fixed and place > 0, overflow="fold"
        )
    return table


def headlines(report: Mapping[str, Any]) -> list[str]:
    """Return the headline of each evaluation, each followed by its numbers."""
    lines = [one_line(line, 600) for line in content.leading_notes(report)]
    evaluations = content.evaluations_and_forgetting(report)
    for name, part in evaluations.items():
        lines.append(one_line(f"{name}: {part['headline']}", 400))
        verdict = content.verdict(name, part)
        if verdict.kind != "once":
            _, before, after, _, interval, cases = content.change_cells(verdict.row["metric"], verdict.row)
            what = one_line(verdict.cases)
            lines.append(f"  {before} -> {after}, 95 % interval {interval}; {cases} {what} won / lost / tied")
    if not evaluations:
        lines.append("not evaluated (evaluation=none)")
    return lines
