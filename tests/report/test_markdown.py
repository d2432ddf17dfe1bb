"""report.md: all sections of a report, with all texts escaped."""

from __future__ import annotations

import ast
import json
import re

import pytest

from finetune.report.markdown import report_markdown
from finetune.runs.atomic import to_json
from tests.report.made import BARE, HOSTILE, make_report, row
from tests.report.test_escaping import RENDERER, Cells


@pytest.fixture(scope="module")
def text() -> str:
    return report_markdown(make_report())


def test_it_starts_with_the_headlines(text: str) -> None:
    lines = text.splitlines()
    assert lines[0] == "# my run"
    assert lines[2] == "- **retrieval**: better: +0.081 nDCG@10, certain; certainly worse: recall@1 -0.030"
    assert lines[3].startswith("- **similarity**: no visible change")
    assert "| nDCG@10 | 0.412 | 0.493 | +0.081 * | +0.061 to +0.101 | 120 / 40 / 90 |" in text
    assert "250 queries, 4,000 documents" in text
    assert "Without a model: BM25 has nDCG@10 0.354" in text


def test_the_worst_regression_comes_first(text: str) -> None:
    assert text.index("### The largest losses") < text.index("### The largest gains")
    changes = [float(found) for found in re.findall(r"\*\*Change:\*\* (\S+),", text)]
    assert changes[:5] == sorted(changes[:5]) and changes[0] < 0 < changes[-1]
    assert changes[5:] == sorted(changes[5:], reverse=True)
    assert "first right text: rank 1 → rank 4" in text
    assert "✓ the text of number" in text


def test_suspect_pairs_and_labels_have_separate_tables(text: str) -> None:
    assert len(re.findall(r"^\| where \| query \| found by model \| marked right \|$", text, re.M)) == 2
    (labels,) = re.findall(r"^\| where \| item \| its class \| class by model \|\n.*\n(.*)$", text, re.M)
    assert "the text of number 21" in labels.split("|")[2]


def test_hard_negatives_are_counted_and_shown(text: str) -> None:
    lines = text.splitlines()
    for step in ("The untouched model", "The model at step 500"):
        assert f"- {step}: 23,000 negatives for 12,000 pairs, of which 1,000 have fewer than were asked for." in lines
    reason = "it scores almost as high as the positive (max_share_of_positive)"
    assert f"| {reason} | 1,234 | 56 |" in text.replace("\\", "")
    assert "it is right according to the data" not in text  # nothing was left out because of it
    assert "**positive:** the text of number 5 (-)  " in lines
    assert "**negative:** the text of number 6 (0.40)" in lines
    assert "**left out:** the text of number 3 (0.70)" in lines


def test_facts_are_formatted(text: str) -> None:
    for line in (
        "| training pairs | 12,000 |",
        "| leaks (training pairs that contain a validation query) | 0 |",
        "| training time | 5 min 11 s |",
        "| peak memory | 2,311 MB |",
        "| tokens per second | 3,970 |",
        "| git | c0ffee (changed) |",
        "| versions | torch 2.13.0 |",
        "| pairs.csv:17 | the text of number 0 | the text of number 1 (0.83) | the text of number 2 (0.61) |",
        "| nDCG@10 | 0.810 | 0.790 | -0.020 | -0.070 to +0.030 | 120 / 40 / 90 |",
    ):
        assert line in text.splitlines()
    assert "energy" not in text  # unknown on this system
    assert "Right and wrong pairs overlap by" in text


def test_markdown_depends_only_on_report_json() -> None:
    report = make_report(hostile=True)
    assert report_markdown(json.loads(to_json(report))) == report_markdown(report)


def test_missing_sections_are_left_out() -> None:
    text = report_markdown(BARE)
    assert "Not evaluated (`evaluation=none`)." in text
    assert re.findall(r"^## (.*)", text, re.M) == ["Data", "Cost", "How to reproduce", "How to use the model"]


def test_with_one_measurement_only() -> None:
    report = make_report()
    once = {"metric": "nDCG@10", "value": 0.5}
    report["evaluations"] = {"retrieval": report["evaluations"]["retrieval"] | {"metrics": [once], "headline": "once"}}
    assert "| metric | value |\n| --- | --- |\n| nDCG@10 | 0.500 |\n" in report_markdown(report)


def test_a_missing_number_is_a_dash() -> None:
    report = make_report()
    report["evaluations"]["similarity"]["metrics"] = [row("Spearman cosine", 0.5, 0.6) | {"before": None}]
    assert "| Spearman cosine | - | 0.600 |" in report_markdown(report)


def test_hostile_text_shows_as_text() -> None:
    text = report_markdown(make_report(" ".join(HOSTILE), hostile=True))
    found = Cells(RENDERER.render(text))
    allowed = {"h1", "h2", "h3", "p", "ul", "li", "strong", "br", "pre", "code"}
    assert set(found.tags) <= allowed | {"table", "thead", "tbody", "tr", "th", "td"}
    # Every line of every table keeps its number of cells.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert found.tags.count("h1") == 1
    assert max(map(len, text.splitlines())) < 12_000  # the command alone keeps its length


@pytest.mark.parametrize("path", ['outputs/it\'s "mine"/model', "a\nb", "C:\\x", "日本"])
def test_the_usage_is_valid_code(path: str) -> None:
    text = report_markdown(make_report() | {"model_path": path})
    code = re.search(r"```python\n(.*?)\n```", text, re.S)[1]
    (loaded,) = [
        node.args[0].value
        for node in ast.walk(ast.parse(code))
        if getattr(node, "func", None) and node.args and isinstance(node.args[0], ast.Constant)
    ]
    assert loaded == path
    assert len([line for line in code.splitlines() if line]) == 5


def test_other_kinds_of_models_have_their_own_usage() -> None:
    use = 'encoder = VectorEncoder("path/to/this/folder").eval()'
    assert "encoder = VectorEncoder('outputs/m').eval()" in report_markdown(
        make_report() | {"use": use, "model_path": "outputs/m"}
    )
