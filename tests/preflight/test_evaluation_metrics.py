"""Metrics of an evaluation and of a sweep, checked without importing them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from finetune.config.check import check_overrides
from finetune.data.holdout.eval_data import LabelledItems, ScoredPairs
from finetune.preflight.evaluators import evaluation_problems
from finetune.preflight.sweep_metric import check_sweep_metric, known_metrics, result_names
from tests.evaluation.making import built, judgments

NDCG = "torchmetrics.retrieval.RetrievalNormalizedDCG"
MINE = """
from torchmetrics import Metric
from finetune.metrics import RetrievalMetric

class Good(RetrievalMetric):
    label = "good"

class Silent(Metric):
    def update(self, preds, target, indexes): ...

class Strange(Metric):
    higher_is_better = True
    def update(self, images, preds=None): ...

class Other:
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of one's own that fails when it is imported."""
    (tmp_path / "mine_metrics.py").write_text(MINE + "raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FINETUNE_ALLOW", "mine_metrics")
    return "mine_metrics"


def problems_of(*overrides: str) -> list[str]:
    """Return the problems of a config, as sentences."""
    cfg, problems = check_overrides(["data.path=pairs.csv", *overrides])
    if cfg is not None and not problems:
        problems = [*evaluation_problems(cfg, None), *check_sweep_metric(cfg)]
    return [str(problem) for problem in problems]


def retrieval(*metrics: str) -> list[str]:
    return problems_of("evaluation=retrieval", f"evaluation.retrieval.metrics=[{','.join(metrics)}]")


def test_names_and_objects_that_are_fine(mine):
    ndcg = f"{{_target_: {NDCG}, top_k: 10}}"
    assert (
        retrieval("nDCG@10", ndcg, f"{{_target_: {mine}.Good, k: 3}}", "{_target_: finetune.metrics.MRR, k: 3}") == []
    )
    kendall, auroc = "regression.KendallRankCorrCoef", "classification.BinaryAUROC"
    assert (
        problems_of("evaluation=similarity", f"evaluation.similarity.metrics=[{{_target_: torchmetrics.{kendall}}}]")
        == []
    )
    pairs = f"evaluation.pair_classification.metrics=[accuracy,{{_target_: torchmetrics.{auroc}}}]"
    assert problems_of("evaluation=pair_classification", pairs) == []
    clusters = "evaluation.clustering.metrics=[{_target_: torchmetrics.clustering.DunnIndex},V-measure]"
    assert problems_of("evaluation=clustering", clusters) == []


@pytest.mark.parametrize(
    ("metric", "sentences"),
    [
        ("nDGC@10", ["there is no metric 'nDGC@10'", "Did you mean nDCG@10?", "There are: nDCG@k, DCG@k"]),
        ("nDCG", ["needs a cut-off", "Write nDCG@10."]),
        ("5", ["expected"]),
        ("{k: 5}", ["a text or an object with a _target_)"]),
        (f"{{_target_: {NDCG}}}", ["metrics.0", "RetrievalNormalizedDCG needs a cut-off", "Add top_k: 10."]),
        (f"{{_target_: {NDCG}, top_k: -1}}", ["top_k", "at least 1"]),
        (f"{{_target_: {NDCG}, topk: 5}}", ["needs a cut-off", "Add top_k: 10."]),
        (f"{{_target_: {NDCG}s}}", ["has no 'RetrievalNormalizedDCGs'", f"Did you mean {NDCG}?"]),
        ("{_target_: torchmetrics.text.BERTScore}", ["evaluation may not build", "torchmetrics.retrieval.*"]),
        ("{_target_: os.system}", ["evaluation may not build os.system", "FINETUNE_ALLOW"]),
        ("{_target_: finetune.metrics.rank_by_score, scores: 1, grades: 1}", ["rank_by_score is no"]),
        ("{_target_: torchmetrics.regression.MeanSquaredError}", ["does not measure", "torchmetrics.retrieval.*"]),
        ("{_target_: mine_metrics.Silent}", ["Silent does not define whether", "higher_is_better"]),
        ("{_target_: mine_metrics.Strange}", ["update of Strange needs images", "It has: relevance, relevant, ideal"]),
        ("{_target_: mine_metrics.Other}", ["Other is not a torchmetrics.Metric"]),
        ("{_target_: mine_metrics.Goood}", ["has no 'Goood'", "Did you mean mine_metrics.Good?"]),
    ],
)  # fmt: skip
def test_metrics_that_are_refused(mine, metric, sentences):
    found = retrieval("recall@1", metric) if metric.startswith(("n", "5")) else retrieval(metric)
    assert len(found) == 1, found
    assert all(sentence in found[0] for sentence in sentences), found


def test_further_mistakes():
    twice = [f"{{_target_: {NDCG}, top_k: 5}}"] * 2
    assert "two metrics have the name RetrievalNormalizedDCG@5" in retrieval(*twice)[0]
    assert retrieval("nDCG@5", "nDCG@5") == []
    found = problems_of("evaluation=clustering", "evaluation.clustering.metrics=[Vmeasure]")
    assert "Did you mean V-measure? There are: V-measure; or give any torchmetrics.Metric" in found[0]


def test_the_check_imports_no_torch():
    code = (
        "import sys\n"
        "from finetune.config.check import check_overrides\n"
        "from finetune.preflight.evaluators import evaluation_problems\n"
        "from finetune.preflight.sweep_metric import check_sweep_metric\n"
        f"metrics = 'evaluation.retrieval.metrics=[{{_target_: {NDCG}, top_k: 3}}]'\n"
        "cfg, _ = check_overrides(['data.path=x.csv', metrics])\n"
        "assert not [*evaluation_problems(cfg, None), *check_sweep_metric(cfg)]\n"
        "assert not {'torch', 'torchmetrics'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "metric",
    [
        *("null", "nDCG@10", "retrieval/nDCG@10", "retrieval/after/recall@1", "loss", "seconds/forward"),
        *("'nDCG@10 (64, int8)'", "'Spearman cosine'"),
    ],
)
def test_a_sweep_ranks_by_metrics_that_its_runs_have(metric):
    more = ["evaluation.retrieval.dimensions=[64]", "evaluation.retrieval.precisions=[int8]"]
    assert problems_of(*more, f"sweep.metric={metric}") == []


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sweep.metric=nDGC@10"], "sweep.metric: the runs have no metric 'nDGC@10'. Did you mean nDCG@10?"),
        (["sweep.metric=los"], "Did you mean loss?"),
        (["sweep.metric=nDCG@5"], "There are: nDCG@10, recall@1"),
        (["sweep.metric=forgetting/nDCG@10"], "the runs have no metric 'forgetting/nDCG@10'"),
        (["sweep.prune_by=nDCG@10"], "sweep.prune_by: the runs have no metric 'nDCG@10'"),
        (["sweep.metric=nDCG@10", "evaluation=none"], "There are: loss, learning_rate"),
    ],
)
def test_a_sweep_is_refused_by_a_metric_that_no_run_has(overrides, sentence):
    (found,) = problems_of(*overrides)
    assert sentence in found


def test_the_metrics_of_ones_own_code_are_unknown(mine):
    own = [
        ["+callbacks.own._target_=mine_metrics.Other"],
        ["evaluation=retrieval", f"evaluation.retrieval.metrics=[nDCG@10,{{_target_: {mine}.Good}}]"],
        ["evaluation=mteb", "evaluation.mteb.tasks=[SciFact]"],
    ]
    for overrides in own:
        cfg, problems = check_overrides(["data.path=pairs.csv", "sweep.metric=anything", *overrides])
        assert problems == []
        assert cfg is not None
        assert known_metrics(cfg) is None
        assert [*check_sweep_metric(cfg)] == []


EMBEDDINGS = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
HELD = {
    "retrieval": judgments([0, 1], np.arange(5, 30), [(0, 0, 1), (1, 3, 1)]),
    "similarity": ScoredPairs("test", np.arange(10), np.arange(10, 20), np.arange(10.0)),
    "pair_classification": ScoredPairs("test", np.arange(10), np.arange(10, 20), np.arange(10) % 2.0),
    "classification": LabelledItems("test", np.arange(40), np.arange(40) % 2, np.arange(40) % 3 == 0),
    "clustering": LabelledItems("test", np.arange(40), np.arange(40) % 2, np.arange(40) % 3 == 0),
    "geometry": judgments([0, 1], np.arange(5, 30), [(0, 0, 1), (1, 3, 1)]),
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("retrieval", {"dimensions": [4], "precisions": ["int8", "binary"], "bm25": False}),
        ("retrieval", {"metrics": ["MRR@3", {"_target_": NDCG, "top_k": 3}, {"_target_": "finetune.metrics.MAP"}]}),
        ("similarity", {"similarities": ["cosine", "dot"]}),
        ("similarity", {"metrics": [{"_target_": "torchmetrics.regression.MeanSquaredError"}]}),
        ("pair_classification", {"similarities": ["cosine", "euclidean"], "metrics": ["AP", "accuracy"]}),
        ("classification", {"neighbours": 3}),
        ("clustering", {"metrics": ["V-measure", {"_target_": "torchmetrics.clustering.DaviesBouldinScore"}]}),
        ("geometry", {}),
    ],
)
def test_the_names_that_are_read_from_the_config_are_those_of_the_result(name, changes):
    cfg, _ = check_overrides(["data.path=pairs.csv", f"evaluation={name}"])
    assert cfg is not None
    node = cfg.evaluation[name]
    node.update(changes)
    result = built(name, **changes).evaluate(HELD[name], lambda rows: EMBEDDINGS[rows])
    assert result_names(node) == [*result.per_query]


def test_what_an_evaluator_offers_is_what_its_check_reads():
    from finetune.evaluation.classification import Clustering
    from finetune.evaluation.ranking import Ranking
    from finetune.evaluation.retrieval import Retrieval

    assert Retrieval.metric_inputs == Ranking.names
    assert {*Clustering.metric_inputs} == {"preds", "target", "data", "labels"}
