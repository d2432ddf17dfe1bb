import ast
import json
import re

import numpy as np
import pytest
from rich.console import Console

from finetune.data.judgments import Judgments
from finetune.errors import FinetuneError
from finetune.evaluation.bootstrap import Change
from finetune.evaluation.report import Comparison, Row, compare, render_table, report_data, report_markdown
from finetune.evaluation.retrieval import RetrievalResult
from finetune.runs.atomic import to_json

from .making import built
from .test_plain import RENDERER, Cells

QUERIES, DOCUMENTS = 40, 200
METRICS = ["nDCG@10", "recall@1", "recall@10", "MRR@10", "MAP@100"]


def _result(noise: float, seed: int = 0, queries: int = QUERIES) -> RetrievalResult:
    """Query q belongs to document q; less noise is a better model."""
    random = np.random.default_rng(seed)
    documents = random.standard_normal((DOCUMENTS, 16))
    emb = np.concatenate([documents[:QUERIES] + noise * random.standard_normal((QUERIES, 16)), documents])
    rows = np.arange(queries)
    judgments = Judgments("pairs.csv, held out", rows, np.arange(DOCUMENTS) + QUERIES, rows, rows, np.ones(queries))
    return built("retrieval", metrics=METRICS, bootstrap_samples=500).evaluate(
        judgments, lambda items: emb[items].astype(np.float32)
    )


@pytest.fixture(scope="module")
def comparison():
    return compare(_result(2.0, seed=1), _result(1.0, seed=0))


def _report(evaluations, texts=lambda row: f"text {row}", **changes) -> dict:
    facts = {
        "run": "2026-01-01_bert_csv",
        "model_path": "outputs/x/model",
        "data": {"rows read": 12_000, "share cut": 0.0123},
        "notes": ["3 duplicate rows were kept once"],
        "cost": {"training": "3 min", "texts/s": 512.3},
        "again": {
            "command": "python train.py model=bert",
            "seed": 42,
            "versions": {"torch": "2.13", "no": None, "numpy": "2.4"},
        },
    }
    return report_data(evaluations=evaluations, take=lambda rows: [texts(int(row)) for row in rows], **facts | changes)


def test_compare_measures_every_metric_headline_first(comparison) -> None:
    assert [row.metric for row in comparison.rows] == ["nDCG@10", "recall@1", "recall@10", "MRR@10", "MAP@100"]
    for row in comparison.rows:
        assert row.change.mean_before == comparison.before.means[row.metric]
        assert row.change.mean_after == comparison.after.means[row.metric]
    assert comparison.verdict == f"better: {comparison.headline.change:+.3f} nDCG@10, certain"


def test_examples_are_the_largest_changes(comparison) -> None:
    change = comparison.after.per_query["nDCG@10"] - comparison.before.per_query["nDCG@10"]
    assert change[comparison.gained(5)].tolist() == sorted(change, reverse=True)[:5]
    lost = change[comparison.lost(5)].tolist()
    assert lost == [value for value in sorted(change)[:5] if value < 0]
    assert lost  # the model of the fixture is worse somewhere


def test_nothing_changed_has_no_examples() -> None:
    same = compare(_result(1.0), _result(1.0))
    assert not len(same.gained(5))
    assert not len(same.lost(5))
    assert same.verdict == "no visible change: +0.000 nDCG@10"


def test_results_of_different_queries_are_refused() -> None:
    with pytest.raises(FinetuneError, match="not of the same queries"):
        compare(_result(1.0), _result(1.0, queries=QUERIES - 1))


def test_the_table_in_the_terminal(comparison) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render_table(comparison, "retrieval"))
    shown = console.export_text()
    headline = comparison.headline
    assert comparison.verdict in shown
    for number in (headline.mean_before, headline.mean_after):
        assert f"{number:.3f}" in shown
    assert f"{headline.change:+.3f} *" in shown
    assert f"{headline.low:+.3f} to {headline.high:+.3f}" in shown


def test_the_report_says_it_all(comparison) -> None:
    text = report_markdown(_report({"retrieval": comparison}))
    assert text.startswith("# 2026-01-01_bert_csv\n\n- **retrieval**: better: ")
    assert "40 queries, 200 documents, 40 judgments" in text
    assert "without a right document" not in text
    assert text.index("### The largest losses") < text.index("### The largest gains")
    assert "| rows read | 12,000 |" in text
    assert "| share cut | 0.0123 |" in text
    assert "- 3 duplicate rows were kept once" in text
    assert "```sh\npython train.py model=bert\n```" in text
    assert "| versions | torch 2.13, numpy 2.4 |" in text
    headline = comparison.headline
    assert f"| nDCG@10 | {headline.mean_before:.3f} | {headline.mean_after:.3f} | {headline.change:+.3f} * |" in text


def test_an_example_marks_the_right_documents(comparison) -> None:
    report = _report({"retrieval": comparison})
    (query, *_) = comparison.gained(1)
    example = report["evaluations"]["retrieval"]["examples"]["largest gains"][0]
    right = f"text {QUERIES + query}"
    assert (example["query"], example["right"]) == (f"text {query}", [right])
    assert example["before"]["score"] < example["after"]["score"]
    assert [hit["right"] for hit in example["after"]["hits"]] == [
        hit["text"] == right for hit in example["after"]["hits"]
    ]
    assert len(example["after"]["hits"]) == 5
    assert f"✓ {right} |" in report_markdown(report)


def test_a_report_can_be_rebuilt_from_its_json(comparison) -> None:
    report = _report({"retrieval": comparison})
    assert report_markdown(json.loads(to_json(report))) == report_markdown(report)


def test_without_an_evaluation() -> None:
    text = report_markdown(_report({}, notes=[]))
    assert "Not evaluated (`evaluation=none`)." in text
    assert "## How to use the model" in text
    RENDERER.render(text)


def test_the_data_is_told_in_words() -> None:
    text = report_markdown(_report({}, data={"training_pairs": 3, "leaks": 0}))
    assert "| training pairs | 3 |" in text
    assert "| leaks (training pairs that contain a validation query) | 0 |" in text


def test_what_certainly_changed_is_told_beside_an_uncertain_headline() -> None:
    def row(metric: str, change: float, certain: bool) -> Row:
        won, lost = (20, 0) if change > 0 else (0, 20)
        margin = 0.001 if certain else 1.0
        return Row(metric, Change(0.5, 0.5 + change, change, change - margin, change + margin, won, lost, 20, 0.1))

    result = _result(1.0)
    rows = [row("nDCG@10", 0.01, False), row("recall@1", -0.02, True), row("MRR@10", 0.03, True)]
    verdict = Comparison(result, result, rows).verdict
    assert verdict.startswith("no visible change: +0.010 nDCG@10")
    assert verdict.endswith("; certainly worse: recall@1 -0.020; certainly better: MRR@10 +0.030")
    rows[0] = row("nDCG@10", 0.01, True)
    verdict = Comparison(result, result, rows).verdict
    assert verdict == "better: +0.010 nDCG@10, certain; certainly worse: recall@1 -0.020"


def test_with_one_measurement_only() -> None:
    result = _result(1.0)
    text = report_markdown(_report({"retrieval": result}))
    mean = f"{result.means['nDCG@10']:.3f}"
    assert f"- **retrieval**: nDCG@10 {mean}, measured once: nothing to compare it with" in text
    assert f"| metric | value |\n| --- | --- |\n| nDCG@10 | {mean} |\n" in text
    assert "interval" not in text


def test_several_evaluators_each_have_their_part(comparison) -> None:
    text = report_markdown(_report({"mine": comparison, "other": _result(1.0)}))
    assert re.findall(r"^## (.*)", text, re.M)[:2] == ["mine", "other"]
    assert len(re.findall(r"^- \*\*(mine|other)\*\*: ", text, re.M)) == 2


HOSTILE = [
    "<script>alert(1)</script>",
    "| a | b |\n| - | - |",
    "`code` ```\n# not a heading\n",
    "x" * 10_000,
    "\u202e\u05d0 | \u05d1",
    "👨‍👩‍👧 | 🤷🏽‍♀️",
    "</td></table><img src=x onerror=alert(1)>",
    "[a](javascript:alert(1)) ![b](http://example.org/pixel)",
    "",
    "\\",
]


def test_hostile_text_shows_as_text(comparison) -> None:
    hostile = " ".join(HOSTILE)
    report = _report(
        {hostile: comparison},
        texts=lambda row: HOSTILE[row % len(HOSTILE)] + f" {row}",
        run=hostile,
        data={hostile: hostile},
        notes=HOSTILE,
        cost={hostile: hostile},
        again={"command": f"python train.py 'data.path={hostile}'", hostile: hostile},
    )
    text = report_markdown(report)
    found = Cells(RENDERER.render(text))
    allowed = {"h1", "h2", "h3", "p", "ul", "li", "strong", "br", "pre", "code"}
    assert set(found.tags) <= allowed | {"table", "thead", "tbody", "tr", "th", "td"}
    # Every line of every table keeps its number of cells.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert found.tags.count("h1") == 1
    assert found.tags.count("h2") == 5
    assert max(map(len, text.splitlines())) < 12_000  # the command alone keeps its length


@pytest.mark.parametrize("path", ['outputs/it\'s "mine"/model', "a\nb", "C:\\x", "日本"])
def test_the_code_to_use_the_model_is_code(path: str) -> None:
    text = report_markdown(_report({}, model_path=path))
    code = re.search(r"```python\n(.*?)\n```", text, re.S)[1]
    (loaded,) = [
        node.args[0].value
        for node in ast.walk(ast.parse(code))
        if getattr(node, "func", None) and node.args and isinstance(node.args[0], ast.Constant)
    ]
    assert loaded == path
    assert len([line for line in code.splitlines() if line]) == 5
