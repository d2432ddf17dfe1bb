"""Metrics of torchmetrics and of one's own in whole runs: the report, metrics.jsonl, a sweep, and several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import quick, run_train, write_pairs

MINE = """
from finetune.metrics import RetrievalMetric

class FirstTwo(RetrievalMetric):
    label = "first_two"

    def per_query(self, relevance_QK, relevant_Q, ideal_QI):
        return (relevance_QK[:, :2] > 0).any(1).double()
"""
METRICS = ",".join(
    [
        *("nDCG@10", "hit_rate@2", "{_target_: mine.FirstTwo}"),
        "{_target_: torchmetrics.retrieval.RetrievalNormalizedDCG, top_k: 10}",
        "{_target_: torchmetrics.retrieval.RetrievalFallOut, top_k: 3, aggregation: max}",
    ]
)
NAMES = ["nDCG@10", "hit_rate@2", "first_two", "RetrievalNormalizedDCG@10", "-RetrievalFallOut@3"]


def train(tiny_model: Path, cwd: Path, *more: str) -> str:
    """Train in `cwd` with all of these metrics, and return what was printed."""
    write_pairs(cwd / "pairs.csv")
    (cwd / "mine.py").write_text(MINE)
    metrics = ["evaluation=retrieval", f"evaluation.retrieval.metrics=[{METRICS}]", "trainer.max_epochs=1"]
    process = run_train(*more, *quick(tiny_model, *metrics), cwd=cwd, warm={"FINETUNE_ALLOW": "mine"})
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def rows_of(run: Path) -> dict[str, dict[str, float]]:
    report = json.loads((run / "report.json").read_text())
    return {row["metric"]: row for row in report["evaluations"]["retrieval"]["metrics"]}


@pytest.mark.thorough
def test_a_run_of_two_processes_reports_what_one_process_does(tiny_model, tmp_path):
    train(tiny_model, tmp_path, "name=one")
    train(tiny_model, tmp_path, "name=two", "trainer=ddp", "trainer.devices=2")
    one, two = (rows_of(tmp_path / "outputs/default" / name) for name in ("one", "two"))
    assert [*one] == NAMES
    for name in NAMES:
        assert two[name]["before"] == pytest.approx(one[name]["before"], abs=1e-9), name
    for row in (one["first_two"], one["hit_rate@2"]):
        assert row["won"] + row["lost"] + row["tied"] > 1
    assert {key: one["first_two"][key] for key in ("before", "after", "low", "high")} == {
        key: one["hit_rate@2"][key] for key in ("before", "after", "low", "high")
    }
    # Pairs have one right document, of grade 1.
    assert one["RetrievalNormalizedDCG@10"]["after"] == pytest.approx(one["nDCG@10"]["after"], abs=1e-6)
    assert one["RetrievalNormalizedDCG@10"]["low"] == pytest.approx(one["nDCG@10"]["low"], abs=1e-6)
    assert one["-RetrievalFallOut@3"]["low"] is None, "a single number has no interval"
    assert one["-RetrievalFallOut@3"]["after"] < 0
    logged = [json.loads(line) for line in (tmp_path / "outputs/default/one/metrics.jsonl").read_text().splitlines()]
    assert all(f"retrieval/after/{name}" in logged[-1] for name in NAMES)


@pytest.mark.thorough
def test_a_sweep_is_ranked_by_a_metric_of_ones_own(tiny_model, tmp_path):
    printed = train(tiny_model, tmp_path, "-m", "optimizer.lr=1e-5,1e-3", "sweep.metric=-RetrievalFallOut@3")
    trials = json.loads((tmp_path / "outputs/default/sweep.json").read_text())["points"]
    assert "the trials, best first" in printed
    assert [trial["metric"] for trial in trials] == ["-RetrievalFallOut@3"] * 2
    assert trials[0]["value"] >= trials[1]["value"]
