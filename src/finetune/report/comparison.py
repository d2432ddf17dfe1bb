"""Several runs side by side: where they differ, what each found, their curves; as plain data and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.config.differences import as_yaml
from finetune.report import charts, content
from finetune.report.charts import Chart
from finetune.report.content import Table
from finetune.report.page import render
from finetune.report.words import number
from finetune.runs.atomic import read_mapping
from finetune.runs.compare import side_by_side
from finetune.runs.record import Record

# What the intervals do not say, and who does.
ADVICE = (
    "An interval is of a run's change from its own beginning. Whether one model is better than another for certain is"
    " measured on the same queries by: finetune evaluate FIRST SECOND"
)


def compared(records: Sequence[Record]) -> dict[str, Any]:
    """What `finetune runs compare` tells of them, and the `findings`: of each evaluation the metrics of each run."""
    reports = [read_mapping(record.run.report_data_path) for record in records]
    findings: dict[str, dict[str, list[Any]]] = {}
    for place, report in enumerate(reports):
        for name, part in (report.get("evaluations") or {}).items():
            for row in part.get("metrics", ()):
                rows = findings.setdefault(name, {}).setdefault(row["metric"], [None] * len(records))
                rows[place] = row
    return side_by_side(records) | {"findings": findings, "warnings": list(_warnings(records, reports))}


def _warnings(records: Sequence[Record], reports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for record, report in zip(records, reports, strict=True):
        if not report:
            yield f"{record.name} has no report yet: it is {record.state}."
    data = [read_mapping(record.run.data_path) for record in records]
    if any(each != data[0] for each in data[1:]):
        yield "The runs are of different data: their numbers may not be of the same queries."


def metrics_table(facts: Mapping[str, Any], name: str) -> Table:
    """What each run found by one evaluation; certain changes are marked."""
    rows = [(metric, *map(_cell, found)) for metric, found in facts["findings"][name].items()]
    return Table(("metric", *facts["runs"]), rows)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    if "change" not in row:
        return number(row["value"], 3)
    return f"{number(row['after'], 3)} ({number(row['change'], 3, '+')}{' *' if row.get('certain') else ''})"


def differences_table(facts: Mapping[str, Any], title: str) -> Table:
    """Where the configs, the data or the environments differ."""
    rows = [
        (key, *("-" if value is None else as_yaml(value) for value in values)) for key, values in facts[title].items()
    ]
    return Table((title, *facts["runs"]), rows)


def comparison_page(records: Sequence[Record]) -> str:
    """The page of several runs, from their directories."""
    facts = compared(records)
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
    names = [record.name for record in records]
    labels = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    metrics = {label: record.run.read_metrics() for label, record in zip(labels, records, strict=True)}
    found = {name: content.loss_points(rows) for name, rows in metrics.items()}
    yield from _overlaid(found, "Loss", "loss")
    for number_, (name, rows) in enumerate(facts["findings"].items()):
        metric = next(iter(rows))
        found = {run: content.metric_points(records_, name, metric) for run, records_ in metrics.items()}
        yield from _overlaid(found, f"{name}: {metric} over the steps", f"progress-{number_}")


def _overlaid(found: Mapping[str, charts.Points], title: str, name: str) -> Iterator[Chart]:
    if there := {run: points for run, points in found.items() if points}:
        yield charts.overlaid(there, title, name)
