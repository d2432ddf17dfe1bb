"""The report as one page of HTML: no network, no font and no picture from elsewhere, readable without its script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import finetune
from finetune.report import charts, content, words
from finetune.report.charts import Chart
from finetune.report.escaping import one_line

if TYPE_CHECKING:
    from jinja2 import Environment

_LONGEST = 20_000  # characters of a text that a page holds
_UNFOLDED = 240  # characters of a text that are shown at once
_FEWEST = 3  # points that make a curve


@dataclass(frozen=True)
class Part:
    """One evaluation, with its pictures."""

    name: str
    facts: Mapping[str, Any]
    verdict: content.Verdict
    interval: str | None
    charts: list[Chart]
    examples: list[Mapping[str, Any]]


def report_page(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The page of one run, from its report.json and the records of its metrics.jsonl."""
    judged = [
        _part(report, number, *named) for number, named in enumerate(content.evaluations_and_forgetting(report).items())
    ]
    return render(
        "report.html",
        title=report["run"],
        report=report,
        judged=judged,
        parts=[part for part in judged if part.name in report["evaluations"]],
        forgetting=next((part for part in judged if part.name not in report["evaluations"]), None),
        learning=list(_learning(report, records)),
        embeddings=list(_embeddings(report)),
        versions=words.format_facts(report["again"].get("versions") or {}),
    )


def render(template: str, **variables: Any) -> str:
    """A page of a template, in which every variable is text unless it is a picture of ours."""
    style, script = (_shipped(name) for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing may be loaded, and no script run but ours: text that gets past the escaping does nothing either.
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
    environment.filters["visible"] = lambda text: one_line(str(text), _LONGEST)
    environment.filters["number"] = words.format_number
    environment.filters["minus"] = words.typographic_minus
    environment.globals |= {"content": content, "words": words, "unfolded": _UNFOLDED}
    return environment


def _shipped(name: str) -> str:
    return (files("finetune.report") / "templates" / name).read_text(encoding="utf-8")


def _part(report: Mapping[str, Any], number: int, name: str, facts: Mapping[str, Any]) -> Part:
    verdict, rows = content.verdict(name, facts), [row for row in facts["metrics"] if content.has_interval(row)]
    pictures = [charts.changes(rows, f"changes-{number}")] if len(rows) > 1 else []
    if cut := content.truncation_rows(facts):
        pictures.append(charts.dimensions(facts["metric"], cut, f"dimensions-{number}"))
    interval = charts.interval(verdict.row, f"interval-{number}") if content.has_interval(verdict.row) else None
    return Part(name, facts, verdict, interval, pictures, content.examples(report, name))


def _learning(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    if points := content.loss_points(records):
        yield charts.loss(points)
    for number, (name, facts) in enumerate(report["evaluations"].items()):
        points = content.metric_points(records, name, facts["metric"])
        if len(points) >= _FEWEST:
            yield charts.progress(f"{name}: {facts['metric']}", points, f"progress-{number}")


def _embeddings(report: Mapping[str, Any]) -> Iterator[Chart]:
    if found := report.get("similarities"):
        yield from charts.similarities(found)
    if found := report.get("map"):
        yield from charts.maps(found)
