"""The report as a single HTML page: it loads nothing from the network, and is readable without its script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import finetune
from finetune.evaluation.metric_names import format_change, format_value
from finetune.report import charts, content, formatting, negatives
from finetune.report.charts import Chart
from finetune.report.escaping import one_line

if TYPE_CHECKING:
    from jinja2 import Environment

_MAX_TEXT = 20_000  # characters of a text in the page
_UNFOLDED = 240  # characters of a text that are shown before it is expanded
_MIN_POINTS = 3  # points of a curve worth drawing


@dataclass(frozen=True)
class Part:
    """One evaluation with its charts; `interval` is the SVG of the headline's interval."""

    name: str
    facts: Mapping[str, Any]
    verdict: content.Verdict
    interval: str | None
    charts: list[Chart]
    examples: list[Mapping[str, Any]]


def report_page(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of one run, from its report.json and the records of its metrics.jsonl."""
    evaluations = content.evaluations_and_forgetting(report)
    parts = [_part(report, number, name, evaluations[name]) for number, name in enumerate(evaluations)]
    forgetting = [part for part in parts if part.name not in report["evaluations"]]
    return render(
        "report.html",
        title=report["run"],
        report=report,
        headline_parts=parts,
        parts=[part for part in parts if part.name in report["evaluations"]],
        forgetting=forgetting[0] if forgetting else None,
        learning=list(_learning(report, records)),
        embeddings=list(_embeddings(report)),
        versions=formatting.format_facts(report["again"].get("versions") or {}),
    )


def render(template: str, **variables: Any) -> str:
    """Return the page of a template; all variables are escaped except our own SVG."""
    style, script = _read_template("style.css"), _read_template("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Forbids loading anything and running any other script, in case a text is not escaped.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    shared = {"style": style, "script": script, "policy": policy, "version": finetune.__version__}
    return _environment().get_template(template).render(shared | variables)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("finetune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = lambda text: one_line(str(text), _MAX_TEXT)
    environment.filters["value"] = format_value
    environment.filters["change"] = format_change
    environment.filters["score"] = formatting.format_score
    environment.filters["minus"] = formatting.typographic_minus
    environment.globals |= {"content": content, "formatting": formatting, "negatives": negatives}
    environment.globals["unfolded"] = _UNFOLDED
    return environment


def _read_template(name: str) -> str:
    return (files("finetune.report") / "templates" / name).read_text(encoding="utf-8")


def _part(report: Mapping[str, Any], number: int, name: str, facts: Mapping[str, Any]) -> Part:
    verdict = content.verdict(name, facts)
    rows = [row for row in facts["metrics"] if content.has_interval(row)]
    drawn = []
    if len(rows) > 1:
        drawn.append(charts.changes(rows, f"changes-{number}"))
    truncated = content.truncation_rows(facts)
    if truncated:
        drawn.append(charts.dimensions(facts["metric"], truncated, f"dimensions-{number}"))
    interval = None
    if content.has_interval(verdict.row):
        interval = charts.interval(verdict.row, f"interval-{number}")
    return Part(name, facts, verdict, interval, drawn, content.examples(report, name))


def _learning(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    losses = content.loss_points(records)
    if losses:
        yield charts.loss(losses)
    for number, (name, facts) in enumerate(report["evaluations"].items()):
        points = content.metric_points(records, name, facts["metric"])
        if len(points) >= _MIN_POINTS:
            yield charts.progress(f"{name}: {facts['metric']}", points, f"progress-{number}")


def _embeddings(report: Mapping[str, Any]) -> Iterator[Chart]:
    if report.get("similarities"):
        yield from charts.similarities(report["similarities"])
    if report.get("map"):
        yield from charts.maps(report["map"])
