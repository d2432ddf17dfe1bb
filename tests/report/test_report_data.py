from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from finetune.analysis.examples import examples
from finetune.data.holdout.judgments import Judgments
from finetune.errors import FinetuneError
from finetune.evaluation.bootstrap import Change
from finetune.evaluation.comparison import Comparison, MetricChange, compare
from finetune.evaluation.retrieval import RetrievalResult
from finetune.report.terminal import models_table
from tests.evaluation.making import built

QUERIES, DOCUMENTS = 40, 200
METRICS = ["nDCG@10", "recall@1", "recall@10", "MRR@10", "MAP@100"]


def _result(noise: float, seed: int = 0, queries: int = QUERIES) -> RetrievalResult:
    """Return a result where document q is right for query q; less noise is a better model."""
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


def test_compare_measures_every_metric_headline_first(comparison) -> None:
    assert [row.metric for row in comparison.rows] == ["nDCG@10", "recall@1", "recall@10", "MRR@10", "MAP@100"]
    for row in comparison.rows:
        assert row.change.mean_before == comparison.before.means[row.metric]
        assert row.change.mean_after == comparison.after.means[row.metric]
    assert comparison.verdict == f"better: {comparison.headline.change:+.3f} nDCG@10, certain"


def test_the_table_of_models_keeps_full_metric_names_in_a_narrow_terminal(comparison) -> None:
    console = Console(width=24, file=StringIO())
    console.print(models_table("retrieval", {"first": comparison.before, "second": comparison.after}))
    text = console.file.getvalue()
    assert all(f"\n{metric} " in text for metric in comparison.before.means)
    assert f"{comparison.before.means['recall@10']:.3f}" in text


def test_examples_are_the_largest_changes(comparison) -> None:
    change = comparison.after.per_query["nDCG@10"] - comparison.before.per_query["nDCG@10"]
    assert change[comparison.gained(5)].tolist() == sorted(change, reverse=True)[:5]
    lost = change[comparison.lost(5)].tolist()
    assert lost == [value for value in sorted(change)[:5] if value < 0]
    assert lost  # the model of the fixture is worse for some queries


def test_nothing_changed_has_no_examples() -> None:
    same = compare(_result(1.0), _result(1.0))
    assert not len(same.gained(5))
    assert not len(same.lost(5))
    assert same.verdict == "no visible change: +0.000 nDCG@10"


def test_results_of_different_queries_are_refused() -> None:
    with pytest.raises(FinetuneError, match="not of the same queries"):
        compare(_result(1.0), _result(1.0, queries=QUERIES - 1))


def test_an_example_marks_the_right_documents(comparison) -> None:
    (query, *_) = comparison.gained(1)
    found = examples(comparison, lambda rows: [f"text {row}" for row in rows])
    example = next(example for example in found if example["query"] == f"text {query}")
    right = f"text {QUERIES + query}"
    assert example["right"] == [right]
    assert example["change"] > 0
    assert [hit["right"] for hit in example["after"]] == [hit["text"] == right for hit in example["after"]]
    assert example["after"][example["right_rank_after"] - 1]["right"]
    changes = [example["change"] for example in found]
    assert changes[0] == min(changes) < 0


def test_certain_changes_are_listed_after_an_uncertain_headline() -> None:
    def row(metric: str, change: float, certain: bool) -> MetricChange:
        won, lost = (20, 0) if change > 0 else (0, 20)
        margin = 0.001 if certain else 1.0
        return MetricChange(
            metric, Change(0.5, 0.5 + change, change, change - margin, change + margin, won, lost, 20, 0.1, 0.0)
        )

    result = _result(1.0)
    rows = [row("nDCG@10", 0.01, False), row("recall@1", -0.02, True), row("MRR@10", 0.03, True)]
    verdict = Comparison(result, result, rows).verdict
    assert verdict.startswith("no visible change: +0.010 nDCG@10")
    assert verdict.endswith("; certainly worse: recall@1 -0.020; certainly better: MRR@10 +0.030")
    rows[0] = row("nDCG@10", 0.01, True)
    verdict = Comparison(result, result, rows).verdict
    assert verdict == "better: +0.010 nDCG@10, certain; certainly worse: recall@1 -0.020"
