"""`finetune report` through the front door."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.made import make_reported_run
from tests.runs.made import make_run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with spaces and markup in its name, with two runs that have a report and a newer one that has none."""
    outputs = tmp_path / "my [runs]" / "outputs"
    make_reported_run(outputs, "one/first")
    other = make_reported_run(outputs, "two/<b>second", hostile=True)
    other.status_path.write_text(other.status_path.read_text().replace('"started_at": "20', '"started_at": "19'))
    make_run(outputs, "two/newest", "failed", days=-1, reason="Memory ran out.")
    return outputs.parent


def report(cwd: Path, *arguments: str, code: int = 0, **env: str) -> str:
    command = [sys.executable, "-m", "finetune", "report", *arguments]
    answer = subprocess.run(
        command, cwd=cwd, env=os.environ | {"COLUMNS": "80"} | env, capture_output=True, text=True, check=False
    )
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout + answer.stderr


def test_the_newest_report_is_rebuilt_from_its_directory_alone(here: Path) -> None:
    lines = report(here).splitlines()
    assert lines == [
        "two/newest is newer and has no report: it is failed.",
        "one/first",
        "retrieval: better: +0.081 nDCG@10, certain; certainly worse: recall@1 -0.030",
        "  0.412 -> 0.493, 95 % interval +0.061 to +0.101; 120 / 40 / 90 queries won / lost / tied",
        "similarity: no visible change: +0.005 Spearman cosine, needs about 900 more queries to be certain",
        "  0.610 -> 0.615, 95 % interval -0.015 to +0.025; 120 / 40 / 90 queries won / lost / tied",
        "geometry: worse: -0.100 -alignment, certain",
        "  -0.500 -> -0.600, 95 % interval -0.120 to -0.080; 120 / 40 / 90 queries won / lost / tied",
        "forgetting: no visible change: -0.020 nDCG@10, needs about 900 more queries to be certain",
        "  0.810 -> 0.790, 95 % interval -0.070 to +0.030; 120 / 40 / 90 queries won / lost / tied",
        "report: outputs/one/first/report.html",
    ]
    run = here / "outputs/one/first"
    first = (run / "report.html").read_bytes(), (run / "report.md").read_bytes()
    (run / "report.html").unlink()
    report(here, "one/first")
    assert ((run / "report.html").read_bytes(), (run / "report.md").read_bytes()) == first


def test_open_gives_the_page_to_the_browser(here: Path) -> None:
    shown, browser = here.parent / "shown", here.parent / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {shown}\n')
    browser.chmod(0o755)
    report(here, "first", BROWSER=f"{browser} %s")  # nobody sits at a screen
    assert not shown.exists()
    report(here, "first", "--open", BROWSER=f"{browser} %s")
    assert shown.read_text() == (here / "outputs/one/first/report.html").as_uri()


def test_several_runs_are_compared(here: Path) -> None:
    shown = report(here, "first", "second")
    assert "0.493 (+0.081 *)" in shown
    page = here / "outputs/one" / "compared_first_-b-second.html"
    assert shown.splitlines()[-1] == f"report: {page.relative_to(here)}"
    assert "<b>second" not in page.read_text() and "&lt;b&gt;second" in page.read_text()
    facts = json.loads(report(here, "first", "second", "newest", "--json"))
    assert facts["runs"] == ["one/first", "two/<b>second", "two/newest"]
    row, same, none = facts["findings"]["retrieval"]["nDCG@10"]
    assert (row["after"], same["after"], none) == (0.493, 0.493, None)
    assert facts["warnings"] == ["two/newest has no report yet: it is failed."]


def test_json_is_the_data_of_the_report(here: Path) -> None:
    assert json.loads(report(here, "first", "--json"))["cost"]["tokens"] == 1_234_567
    assert not (here / "outputs/one/first/report.html").exists()


def test_mistakes_are_reported_in_a_sentence(here: Path) -> None:
    assert "there is no run 'nope' in outputs." in report(here, "nope", code=2)
    said = report(here, "newest", code=2)
    assert "two/newest has no report.json yet" in said and "finetune runs show" in said
    assert "there is no folder elsewhere with runs" in report(here, "--root", "elsewhere", code=2)
    (here / "outputs/one/first/report.json").write_text('{"run": "x"}')
    assert "has a report.json without again, cost, data" in report(here, "first", code=2)
    keys = ("run", "model_path", "evaluations", "data", "notes", "cost", "again")
    (here / "outputs/one/first/report.json").write_text(json.dumps(dict.fromkeys(keys) | {"evaluations": {"x": {}}}))
    assert "The file is damaged" in report(here, "first", code=2)
    report(here, "first", "second")


def test_it_loads_neither_torch_nor_a_browser(here: Path) -> None:
    code = (
        "import sys; from finetune.cli.report import report; from pathlib import Path;"
        "report(['first'], None, show=None, as_json=False);"
        "assert not {'torch', 'transformers', 'webbrowser', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, capture_output=True)
