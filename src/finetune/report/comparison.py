"""Several runs side by side: tables of their metrics and differences, their curves, and the page with all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.config.differences import as_yaml
from finetune.report import charts, content
from finetune.report.charts import Chart
from finetune.report.content import Table
from finetune.report.page import render
from finetune.runs.compare import compare_reports
from finetune.runs.record import Record

ADVICE = (
    "An interval is that of the change from before to after the training of one run. To test whether one model is"
    " better than another on the same queries, use: finetune evaluate FIRST SECOND"
)


def metrics_table(facts: Mapping[str, Any], name: str) -> Table:
    """Return the metrics of each run for one evaluation of `compare_reports`; certain changes are marked."""
    rows = [(metric, *map(content.metric_cell, found)) for metric, found in facts["findings"][name].items()]
    return Table(("metric", *facts["runs"]), rows)


def differences_table(facts: Mapping[str, Any], title: str) -> Table:
    """Return the values of each run that differ in the `config`, the `data` or the `environment`."""
    rows = []
    for key, values in facts[title].items():
        rows.append((key, *("-" if value is None else as_yaml(value) for value in values)))
    return Table((title, *facts["runs"]), rows)


def comparison_page(records: Sequence[Record]) -> str:
    """Return the page of several runs, from their directories."""
    facts = compare_reports(records)
    differing = [title for title in ("config", "data", "environment") if facts[title]]
    return render(
        "comparison.html",
        title=" / ".join(facts["runs"]),
        facts=facts,
        advice=ADVICE,
        evaluations={name: metrics_table(facts, name) for name in facts["findings"]},
        differences={title: differences_table(facts, title) for title in differing},
        curves=list(_curves(records, facts)),
    )


def _curves(records: Sequence[Record], facts: Mapping[str, Any]) -> Iterator[Chart]:
    logged = dict(zip(_unique_names(records), [record.run.read_metrics() for record in records], strict=True))
    losses = {run: content.loss_points(rows) for run, rows in logged.items()}
    yield from _overlaid(losses, "Loss", "loss")
    for number, (evaluation, metrics) in enumerate(facts["findings"].items()):
        headline = next(iter(metrics))
        curves = {run: content.metric_points(rows, evaluation, headline) for run, rows in logged.items()}
        yield from _overlaid(curves, f"{evaluation}: {headline} over the steps", f"progress-{number}")


def _unique_names(records: Sequence[Record]) -> list[str]:
    """Return the names of the runs, numbered where several are equal."""
    names = [record.name for record in records]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]


def _overlaid(curves: Mapping[str, charts.Points], title: str, name: str) -> Iterator[Chart]:
    not_empty = {run: points for run, points in curves.items() if points}
    if not_empty:
        yield charts.overlaid(not_empty, title, name)
