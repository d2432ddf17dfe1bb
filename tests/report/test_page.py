"""The content of the page, as far as it can be tested without a browser."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from finetune.report import charts, content, write
from finetune.report.page import report_page
from finetune.runs.directory import RunDirectory
from tests.report.made import BARE, make_report, make_reported_run, row


class Links(HTMLParser):
    """Collects the links and resources of a page, and its event handlers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_page_is_one_file_that_may_load_nothing() -> None:
    page = report_page(make_report(hostile=True), [{"step": 1, "loss": 1.0}])
    found = Links(page)
    assert found.links and all(link.startswith("#") for link in found.links)
    assert found.handlers == []
    assert "default-src 'none'" in unescape(page)
    assert "@import" not in page and "url(http" not in page


def test_the_same_report_is_the_same_page() -> None:
    records = [{"step": step, "loss": 1 / step} for step in range(1, 50)]
    assert report_page(make_report(), records) == report_page(make_report(), records)


def test_missing_sections_are_left_out_of_the_page() -> None:
    headings = re.findall(r"<h2>(?:<bdi[^>]*>)?([^<]+)", report_page(BARE, []))
    assert headings == ["Data", "Cost", "How to reproduce", "How to use the model"]
    whole = re.findall(r'<section id="([a-z]+)"', report_page(make_report(), [{"step": 1, "loss": 2.0}]))
    sections = [
        "metrics",
        "learning",
        "examples",
        "embeddings",
        "data",
        "negatives",
        "forgetting",
        "cost",
        "again",
        "use",
    ]
    assert whole == sections


def test_a_non_finite_metric_is_a_dash() -> None:
    report = make_report()
    nothing = dict.fromkeys(("before", "after", "change", "low", "high"))
    report["evaluations"]["similarity"]["metrics"] = [row("Spearman cosine", 0.1, 0.2, False) | nothing]
    assert '<td><bdi dir="auto">- to -</bdi></td>' in report_page(report, [])


@pytest.mark.parametrize("length", [1, 199, 200, 201, 5_000])
def test_a_long_curve_keeps_its_ends_and_its_extremes(length: int) -> None:
    points = [(float(step), 1000.0 if step == length // 2 else float(step)) for step in range(1, length + 1)]
    drawn = charts._downsample(points)
    assert len(drawn) <= 200
    assert drawn[-1][0] == length
    assert max(high for _, _, _, high in drawn) == max(value for _, value in points)
    assert min(low for _, low, _, _ in drawn) == min(value for _, value in points)


def test_a_curve_of_a_metric_goes_from_before_to_after() -> None:
    records = [
        {"step": 1, "r/before/nDCG@10": 0.1},
        {"step": 10, "r/nDCG@10": 0.2},
        {"step": 20, "r/nDCG@10": 0.25},
        {"step": 20, "r/after/nDCG@10": 0.3},
    ]
    assert content.metric_points(records, "r", "nDCG@10") == [(0.0, 0.1), (10, 0.2), (20, 0.3)]


def test_the_metric_by_dimensions_ignores_quantized_embeddings() -> None:
    part = make_report()["evaluations"]["retrieval"]
    assert [kept for kept, _, _ in content.truncation_rows(part)] == ["16", "32", "64", "all"]
    assert content.truncation_rows(make_report()["evaluations"]["similarity"]) == []


def test_the_overlap_is_what_two_histograms_share() -> None:
    counts = {"positive": [0, 5, 5, 0], "negative": [0, 0, 1, 1]}
    same = {"positive": [1, 1], "negative": [2, 2]}
    facts = {"edges": [0, 1, 2, 3, 4], "before": counts, "after": same}
    assert charts.overlap_words(facts).startswith("Right and wrong pairs overlap by 50 % before and 100 % after")


def test_an_svg_has_text_and_the_colors_of_the_page() -> None:
    chart = charts.loss([(1.0, 3.0), (2.0, 1.5)])
    svg = ElementTree.fromstring(chart.svg)
    assert svg.get("aria-label") == chart.words == "From 3 at step 1 to 1.5 at step 2."
    assert "step" in "".join(svg.itertext())
    assert not re.search(r"#[0-9a-f]{6}\b", chart.svg)
    assert "var(--after)" in chart.svg


def test_names_with_dollars_are_not_formulas() -> None:
    chart = charts.overlaid({"$x^2$ \\frac": [(1.0, 1.0), (2.0, 2.0)]}, "$loss$", "overlaid")
    assert chart.key[0].name == "$x^2$ \\frac"
    rows = [{"metric": "$\\frac$ <b>", "change": 0.1, "low": 0.0, "high": 0.2, "certain": True}]
    assert "$\\frac$ &lt;b&gt;" in charts.changes(rows, "changes").svg


def test_a_failing_report_does_not_fail_the_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    run = make_reported_run(tmp_path, "x/run")
    assert write.try_to_write_report(run)
    monkeypatch.setattr(write, "report_page", lambda *_: 1 / 0)
    assert not write.try_to_write_report(run)
    assert "The report could not be written: ZeroDivisionError" in capsys.readouterr().out
    assert not write.try_to_write_report(RunDirectory(tmp_path / "x"))
    assert "has no report.json yet" in capsys.readouterr().out
