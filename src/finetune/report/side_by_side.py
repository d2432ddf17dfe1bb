"""Several models side by side, as a table for the terminal and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.evaluation.comparison import Comparison, compare
from finetune.evaluation.result import Result
from finetune.report.escaping import one_line
from finetune.report.report_data import change_data, format_counts

_NUMBER = len("0.000")
_LEGEND = "in brackets: against the first model; * certain: the 95 % interval excludes zero"


def side_by_side(name: str, results: Mapping[str, Result]) -> Table:
    """One evaluator's metrics, a column for each model, in the order of `results`; what needs no model stands last."""
    (_, first), *others = results.items()
    compared = {model: compare(first, result) for model, result in others}
    lines = [f"{one_line(model)}: {comparison.verdict}" for model, comparison in compared.items()]
    counts = format_counts(first.counts)
    caption = "\n".join([*lines, *([_LEGEND] if others else [])])
    # Without lines, and with room for a number in each column, it can be read in a narrow terminal too.
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left", caption_justify="left")
    table.title, table.caption = Text(one_line(f"{name}: {first.name} ({counts})")), Text(caption)
    table.add_column("metric", no_wrap=True)
    for column in (*results, *first.baselines):
        table.add_column(Text(one_line(column)), justify="right", overflow="fold", min_width=_NUMBER)
    for metric, mean in first.means.items():
        cells = [f"{mean:.3f}", *(_cell(metric, comparison) for comparison in compared.values())]
        cells += [f"{means[metric]:.3f}" if metric in means else "" for means in first.baselines.values()]
        table.add_row(metric, *map(Text, cells))
    return table


def _cell(metric: str, comparison: Comparison) -> str:
    change = next(row.change for row in comparison.rows if row.metric == metric)
    return f"{change.mean_after:.3f} ({change.change:+.3f}{' *' if change.certain else ''})"


def as_data(results: Mapping[str, Result]) -> dict[str, Any]:
    """The same as dicts, lists, numbers and strings: every model's means, and the changes against the first model."""
    (_, first), *others = results.items()
    return {
        "data": first.name,
        "metric": first.headline,
        "counts": first.counts,
        "notes": first.notes,
        "baselines": {name: dict(means) for name, means in first.baselines.items()},
        "models": {model: result.means for model, result in results.items()},
        "seconds": {model: round(result.seconds, 3) for model, result in results.items()},
        "against the first": {
            model: {row.metric: change_data(row.change) for row in compare(first, result).rows}
            for model, result in others
        },
    }
