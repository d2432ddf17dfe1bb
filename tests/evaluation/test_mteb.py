"""MTEB tasks: the metrics are computed by MTEB, from our embeddings."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from finetune.errors import FinetuneError
from tests.cli.test_evaluate import evaluate
from tests.conftest import quick, run_train, write_pairs

pytest.importorskip("mteb", reason="needs pip install 'finetune[mteb]'")

from finetune.evaluation.mteb import MEAN, Mteb
from finetune.evaluation.mteb_tasks import fetch_problems, task_problems
from finetune.metrics import MRR, NDCG, RecallAtK
from tests.evaluation import mteb_own
from tests.evaluation.mteb_own import RIGHT, SCORES, texts
from tests.metrics.measured import measured

OWN = "tests.evaluation.mteb_own"


@pytest.fixture(autouse=True)
def _allowed(monkeypatch):
    monkeypatch.setenv("FINETUNE_ALLOW", f"{OWN},mine")


def mteb(*names, scores=(), splits=None):
    return Mteb([f"{OWN}.{name}" for name in names], None, splits, list(scores), False, 200)


def embedded(some, width=16):
    """Return arbitrary embeddings of unit length that depend only on the text."""
    made = np.stack([np.random.default_rng(list(text.encode())).normal(size=width) for text in some])
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_a_search_task_equals_our_own_metrics_per_query():
    result = mteb("Search", scores=["recall_at_10", "mrr_at_10"]).measure(lambda some, role, what: embedded(some))
    order = np.argsort(-(embedded(texts(20, 1)) @ embedded(texts(60, 0)).T), axis=1)
    grades = np.zeros((20, 60))
    for query, right in RIGHT.items():
        for document, grade in right.items():
            grades[int(query[1:]), int(document[1:])] = grade
    gains, ideal = np.take_along_axis(grades, order, 1), -np.sort(-grades, axis=1)
    metrics = {"nDCG@10": NDCG(10), "recall@10": RecallAtK(10), "MRR@10": MRR(10)}
    ours = {name: measured(metric, gains, np.full(20, 2), ideal) for name, metric in metrics.items()}
    assert result.headline == "Search ndcg_at_10"
    # Each query has a number, so that the interval is over the queries.
    assert np.sort(result.per_query["Search ndcg_at_10"]) == pytest.approx(np.sort(ours["nDCG@10"]), abs=1e-6)
    assert result.means["Search recall_at_10"] == pytest.approx(ours["recall@10"].mean(), abs=1e-5)
    assert result.means["Search mrr_at_10"] == pytest.approx(ours["MRR@10"].mean(), abs=1e-5)


def test_scored_pairs_equal_scipy_and_classes_are_predicted():
    def embed(some, role, what):
        if what == "Scored":
            return embedded(some)
        # The numbers of these texts are odd for one class and even for the other.
        return np.eye(2, dtype=np.float32)[[int(text.split()[-1]) % 2 for text in some]]

    result = mteb("Scored", "Topics").measure(embed)
    similar = (embedded(texts(30, 3)) * embedded(texts(30, 4))).sum(1)
    expected = stats.spearmanr(similar, SCORES).statistic
    assert result.means["Scored cosine_spearman"] == pytest.approx(expected, abs=1e-5)
    assert result.means["Topics accuracy"] == 1
    assert result.headline == MEAN
    assert result.means[MEAN] == pytest.approx((expected + 1) / 2, abs=1e-5)
    assert result.counts == {"tasks": 2}


def test_roles_of_queries_documents_and_other_texts():
    asked = []

    def embed(some, role, what):
        asked.append((what, role, len(some)))
        return embedded(some)

    mteb("Search", "Scored").measure(embed)
    assert asked == [("Search", "query", 20), ("Search", "document", 60), ("Scored", None, 30), ("Scored", None, 30)]


def test_errors_of_scores_and_embeddings():
    with pytest.raises(FinetuneError, match="has a score 'ndcg_at_11'") as failed:
        mteb("Search", scores=["ndcg_at_11"]).measure(lambda some, *_: embedded(some))
    assert "ndcg_at_1" in failed.value.advice
    with pytest.raises(FinetuneError, match="embeddings are not finite"):
        mteb("Search").measure(lambda some, *_: np.full((len(some), 4), np.nan, np.float32))


@pytest.mark.parametrize(
    ("tasks", "more", "where", "sentence", "advice"),
    [
        (["SciFct"], {}, "tasks", "MTEB has no task 'SciFct'.", "Did you mean SciFact?"),
        (["MTEB(eng, v3)"], {}, "tasks", "MTEB has no task", "Did you mean MTEB(eng, v1) or MTEB(eng, v2)?"),
        (["os.path"], {}, "tasks", "MTEB has no task 'os.path'.", "FINETUNE_ALLOW"),
        ([f"{OWN}.Nothing"], {}, "tasks", "has no 'Nothing'", ""),
        ([f"{OWN}.about"], {}, "tasks", "is not an MTEB task", "mteb.abstasks"),
        (["CIFAR10"], {}, "tasks", "CIFAR10 is a task on image, and only text is supported.", "Remove it."),
        ([f"{OWN}.Scripted"], {}, "tasks", "needs code from the hub, which is not run", "Remove it."),
        (["STS22"], {"languages": ["jpn"]}, "languages", "STS22 has no data in jpn.", "There are: ara, cmn, deu"),
        (["SciFact", "NanoBEIR"], {}, None, None, None),
    ],
)
def test_tasks_are_checked_before_data_is_loaded(tasks, more, where, sentence, advice):
    found = task_problems("evaluation.x", {"tasks": tasks, "languages": None, "splits": None} | more)
    if where is None:
        assert not found
        return
    (problem,) = found
    assert problem.where == f"evaluation.x.{where}"
    assert sentence in problem.what
    assert advice in problem.advice


def test_a_missing_split_is_reported():
    node = {"tasks": [f"{OWN}.Topics"], "languages": None, "splits": ["test", "dev"]}
    (problem,) = fetch_problems("evaluation.x", node)
    assert (problem.where, problem.what) == ("evaluation.x.splits", "Topics has no split dev.")
    assert problem.advice == "There are: train, test."


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = task_problems("evaluation.mteb", {"tasks": ["SciFact"], "languages": None, "splits": None})
    assert problem.what == "this needs the package mteb, which is not installed."
    assert problem.advice == "Install it: pip install 'finetune[mteb]'"


@pytest.mark.slow
def test_data_that_cannot_be_loaded_is_reported_before_a_run(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    more = ["evaluation=mteb", "evaluation.mteb.tasks=[SciFact]"]
    process = run_train(*quick(tiny_model, *more), cwd=tmp_path)
    assert process.returncode == 2
    assert "the data of SciFact cannot be loaded: Couldn't reach 'mteb/scifact' on the Hub" in " ".join(
        process.stderr.split()
    )
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A run of two processes, with prompts, that measures a search and scored pairs before and after training."""
    cwd = tmp_path_factory.mktemp("trained")
    write_pairs(cwd / "pairs.csv")
    shutil.copy(mteb_own.__file__, cwd / "mine.py")
    more = ["evaluation=[retrieval,mteb]", "evaluation.mteb.tasks=[mine.Search,mine.Scored]", "name=run"]
    more += ["data.prompts={anchor: 'cat ', positive: 'dog '}", "trainer=ddp", "trainer.devices=2"]
    more += ["callbacks=[default,evaluate]", "callbacks.evaluate.every_n_steps=5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_ALLOW", "mine")
        patch.setenv("HOME", str(cwd / "home"))
        process = run_train(*quick(tiny_model, *more), cwd=cwd)
    assert process.returncode == 0, process.stdout + process.stderr
    return cwd / "outputs" / "default" / "run"


def theirs(folder: Path) -> dict[str, float]:
    """The results of MTEB itself with sentence-transformers and the same prompts."""
    import mteb
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", prompts={"query": "cat ", "document": "dog "})
    model.max_seq_length = 16
    wrapped = SentenceTransformerEncoderWrapper(model)
    found = mteb.evaluate(wrapped, [mteb_own.Search(), mteb_own.Scored()], cache=None, show_progress_bar=False)
    return {one.task_name: one.get_score() for one in found.task_results}


@pytest.mark.thorough
def test_a_run_measures_before_and_after_what_mteb_finds_with_sentence_transformers(trained, tiny_model):
    part = json.loads((trained / "report.json").read_text())["evaluations"]["mteb"]
    rows = {row["metric"]: row for row in part["metrics"]}
    for when, model in (("before", tiny_model), ("after", trained / "model")):
        expected = theirs(model)
        assert rows["Search ndcg_at_10"][when] == pytest.approx(expected["Search"], abs=2e-5)
        assert rows["Scored cosine_spearman"][when] == pytest.approx(expected["Scored"], abs=2e-5)
    assert (part["judgments"], part["metric"]) == ("MTEB: Search, Scored", MEAN)
    assert sum(rows["Search ndcg_at_10"][what] for what in ("won", "tied", "lost")) == 20
    # A single number has no interval, and none is shown.
    assert rows["Scored cosine_spearman"]["low"] is None
    for page in ("report.md", "report.html", "model/README.md"):
        assert "+nan" not in (trained / page).read_text()
    # During training only the run's own retrieval is measured.
    keys = {key for line in (trained / "metrics.jsonl").open() for key in json.loads(line)}
    assert {"mteb/before/Search ndcg_at_10", "mteb/after/Search ndcg_at_10"} <= keys
    assert any(key.startswith("retrieval/nDCG") for key in keys)
    assert not any(key.startswith("mteb/Search") for key in keys)
    # Nothing was written to the home folder.
    assert not (trained.parents[2] / "home" / ".cache" / "mteb").exists()


@pytest.mark.slow
def test_evaluate_finds_the_same_of_the_saved_model(trained, monkeypatch):
    monkeypatch.setenv("FINETUNE_ALLOW", "mine")
    more = ["evaluation=mteb", "evaluation.mteb.tasks=[mine.Search]", "data.max_length=16", "--json"]
    prompts = "data.prompts={anchor: 'cat ', positive: 'dog '}"
    output = evaluate(str(trained / "model"), prompts, *more, cwd=trained.parents[2])
    found = json.loads(output)["evaluations"]["mteb"]["models"]
    report = json.loads((trained / "report.json").read_text())["evaluations"]["mteb"]["metrics"]
    after = next(row["after"] for row in report if row["metric"] == "Search ndcg_at_10")
    assert found[str(trained / "model")]["Search ndcg_at_10"] == pytest.approx(after, abs=1e-5)


def test_random_states_are_not_changed(tiny_model):
    from finetune.encoding.collectives import Collectives
    from finetune.encoding.engine import Engine
    from finetune.models.text import TextEncoder
    from finetune.training.evaluation_runner import EvaluationRunner

    encoder = TextEncoder(str(tiny_model))
    measured = EvaluationRunner(encoder, Engine(), 16, None)
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    expected = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()]
    measured.evaluate({"mteb": mteb("Topics")}, Collectives(torch.device("cpu")), "now")
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert random.getstate() == expected[1]
    assert np.array_equal(np.random.get_state()[1], expected[2])
