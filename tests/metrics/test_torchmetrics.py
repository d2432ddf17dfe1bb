"""The metrics as metrics of torchmetrics: states, collections, several processes, other devices, Lightning."""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.retrieval as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningModule, Trainer
from torch import multiprocessing
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

import finetune.metrics as ours
from finetune.errors import FinetuneError
from tests.metrics.every_metric import PAIRS, cases, every_metric, measure_shares


def test_all_metrics_are_tested():
    kinds = {name for name in ours.__all__ if isinstance(getattr(ours, name), type)}
    bases = {"PerCaseMetric", "RetrievalMetric", "PairMetric", "ThresholdMetric", "RankedHits"}
    assert kinds - bases == every_metric().keys()


@pytest.mark.parametrize("module", ["", *(f".{each.name}" for each in pkgutil.iter_modules(ours.__path__))])
def test_the_examples_of_the_documentation(module):
    found = doctest.testmod(importlib.import_module(f"finetune.metrics{module}"))
    assert found.failed == 0
    assert found.attempted > 0 or module == ".base"


@pytest.mark.parametrize("name", every_metric())
def test_several_updates_equal_one_and_reset_forgets(name):
    metric, whole = every_metric()[name], every_metric()[name]
    arguments = cases(metric, 0, 20)
    metric.update(*cases(metric, 1, 5))
    metric.reset()
    for rows in (slice(0, 3), slice(3, 4), slice(4, 20)):
        metric.update(*(each[rows] for each in arguments))
    whole.update(*arguments)
    assert torch.equal(metric.per_case(), whole.per_case())
    assert metric.compute().shape == ()
    assert len(metric.per_case()) == 20
    metric.reset()
    assert len(metric.per_case()) == 0
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert torch.isnan(metric.compute())


@pytest.mark.parametrize("name", every_metric())
def test_forward_returns_the_value_of_the_batch(name):
    metric, alone = every_metric()[name], every_metric()[name]
    metric(*cases(metric, 0, 10))
    found = metric(*cases(metric, 1, 12))
    alone.update(*cases(metric, 1, 12))
    assert float(found) == float(alone.compute())
    assert len(metric.per_case()) == 22


@pytest.mark.parametrize("name", every_metric())
def test_copies_and_saved_states_continue(name, tmp_path: Path):
    metric = every_metric()[name]
    metric.persistent(True)
    metric.update(*cases(metric, 0, 10))
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    loaded = every_metric()[name]
    loaded.persistent(True)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    others = [loaded, metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    for each in (metric, *others):
        each.update(*cases(metric, 1, 6))
    assert len(metric.per_case()) == 16
    assert all(torch.equal(each.per_case(), metric.per_case()) for each in others)


def test_a_collection_does_not_merge_metrics_that_are_equal_at_first():
    collection = MetricCollection([ours.RecallAtK(1), ours.HitRate(1), ours.MRR(1), ours.NDCG(2)])
    collection.update([[1, 0]], [1])  # all of them are 1
    collection.update([[1, 1]], [2])
    collection.update([[0, 1]], [1])
    found = {name: float(value) for name, value in collection.compute().items()}
    assert found == pytest.approx(
        {"RecallAtK": 1.5 / 3, "HitRate": 2 / 3, "MRR": 2 / 3, "NDCG": (2 + 1 / np.log2(3)) / 3}
    )


def test_metrics_of_pairs_share_their_states_in_a_collection():
    collection = MetricCollection([kind() for kind in PAIRS])
    for seed in range(3):
        collection.update(*cases(ours.Pearson(), seed, 9))
    assert len(collection.compute_groups) == 1
    for kind in PAIRS:
        alone = kind()
        for seed in range(3):
            alone.update(*cases(alone, seed, 9))
        assert float(collection.compute()[kind.__name__]) == float(alone.compute())


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(2, 20), st.integers(1, 25))
def test_equal_to_the_ranking_metrics_of_torchmetrics(seed, queries, documents, k):
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.permuted(np.tile(np.arange(documents) + 1.0, (queries, 1)), axis=1))
    grades = torch.from_numpy(random.integers(0, 3, (queries, documents)))
    grades[:, 0] = 1  # no query is without a relevant document
    hits, rows = ours.rank_by_score(scores, grades), torch.arange(queries).repeat_interleave(documents)
    pairs = [
        (ours.NDCG(k), theirs.RetrievalNormalizedDCG(top_k=k)),
        (ours.RecallAtK(k), theirs.RetrievalRecall(top_k=k)),
        (ours.PrecisionAtK(k), theirs.RetrievalPrecision(top_k=k)),
        (ours.HitRate(k), theirs.RetrievalHitRate(top_k=k)),
        (ours.MRR(k), theirs.RetrievalMRR(top_k=k)),
        (ours.MAP(), theirs.RetrievalMAP()),  # with a cut-off theirs is divided by the relevant hits, not by all
        (ours.RPrecision(), theirs.RetrievalRPrecision()),
    ]
    for metric, their_metric in pairs:
        metric.update(*hits)
        is_graded = isinstance(metric, ours.NDCG)
        target = grades.flatten() if is_graded else grades.flatten() > 0
        their_metric.update(scores.flatten().float(), target, indexes=rows)
        assert float(metric.compute()) == pytest.approx(float(their_metric.compute()), abs=1e-6), type(metric)


def test_without_ideal_all_relevant_documents_have_grade_one():
    metric, whole = ours.NDCG(3), ours.NDCG(3)
    metric.update([[0, 1, 0]], [2])
    whole.update([[0, 1, 0]], [2], [[1, 1, 0]])
    assert float(metric.compute()) == float(whole.compute())
    metric.update([[2, 0, 0]], [1])
    with pytest.raises(FinetuneError, match="1 of 2 queries have hits of higher grades") as failed:
        metric.compute()
    assert "ideal=" in failed.value.advice


def test_no_hits_at_all():
    for metric in every_metric().values():
        if isinstance(metric, ours.RetrievalMetric):
            metric.update(np.zeros((2, 0)), [1, 0])
            assert metric.per_case().tolist() == [0, 0]


def test_ties_are_in_the_order_of_the_documents():
    scores, grades = torch.ones(1, 40), torch.arange(40)[None]
    assert ours.rank_by_score(scores, grades, k=5).relevance.tolist() == [[0, 1, 2, 3, 4]]
    assert ours.rank_by_score(scores, grades.bool()).ideal[0, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("metric", "arguments", "sentence"),
    [
        (ours.NDCG(3), ([1, 0], [1, 2]), "relevance has 1"),
        (ours.NDCG(3), ([[1, 0]], [[1]]), "relevant has the shape (1, 1)"),
        (ours.NDCG(3), ([[1, 0]], [1, 2]), "relevance 1, relevant 2"),
        (ours.NDCG(3), ([["a"]], [1]), "expected numbers, found [['a']]"),
        (ours.NDCG(3), (None, [1]), "expected numbers, found None"),
        (ours.MRR(3), ([[1], [1, 2]], [1, 1]), "expected numbers"),
        (ours.Pearson(), ([1, 2], [1]), "preds 2, target 1"),
        (ours.Spearman(), ([[1, 2]], [[1, 2]]), "preds has the shape (1, 2)"),
        (ours.Spearman(), ([1, float("nan")], [1, 2]), "1 of 2 pairs have a number that is not finite"),
        (ours.BestF1(), ([0.1, 0.2], [1, 2]), "1 of 2 targets are neither 0 nor 1, as in 2"),
        (ours.VMeasure(), ([1, 2], [1]), "preds 2, target 1"),
    ],
)
def test_wrong_arguments(metric, arguments, sentence):
    with pytest.raises(FinetuneError) as failed:
        metric.update(*arguments)
        metric.compute()
    assert sentence in failed.value.what
    assert failed.value.advice


def test_wrong_cut_offs_shapes_and_thresholds_of_nothing():
    with pytest.raises(FinetuneError, match="the cut-off k is 0"):
        ours.NDCG(0)
    with pytest.raises(FinetuneError, match=r"the scores have the shape \(3,\)"):
        ours.rank_by_score(torch.ones(3), torch.ones(3))
    with pytest.raises(FinetuneError, match="there are no pairs"):
        ours.BestF1().threshold()


def test_updates_do_not_wait_for_the_device():
    # Tensors without data have a shape only: whatever reads a value of them raises an exception.
    for metric in every_metric().values():
        metric.to("meta")
        arguments = (torch.as_tensor(each).to("meta") for each in cases(metric, 0, 4))
        metric.update(*arguments)
    assert every_metric()["NDCG"].to("meta").device == torch.device("meta")


class _Logged(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.ndcg, self.correlation = ours.NDCG(k=3), ours.Spearman()

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        grades = (torch.arange(4) == 1).int().repeat(len(batch), 1)
        self.ndcg.update(*ours.rank_by_score(batch, grades))
        self.log("ndcg", self.ndcg)
        self.correlation(batch[:, 0], batch[:, 1])
        self.log("correlation", self.correlation, on_step=False, on_epoch=True)


def test_lightning_logs_them_by_epoch(tmp_path: Path):
    scores = torch.from_numpy(np.random.default_rng(0).random((10, 4)))
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False, barebones=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    for _ in range(2):  # Lightning resets them in between
        (logged,) = trainer.validate(_Logged(), DataLoader(scores, batch_size=3), verbose=False)  # type: ignore[arg-type]
    ndcg, correlation = ours.NDCG(3), ours.Spearman()
    ndcg.update(*ours.rank_by_score(scores, (torch.arange(4) == 1).int().repeat(10, 1)))
    correlation.update(scores[:, 0], scores[:, 1])
    assert logged == pytest.approx({"ndcg": float(ndcg.compute()), "correlation": float(correlation.compute())})


@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_values_of_one(tmp_path: Path):
    multiprocessing.spawn(measure_shares, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, metric in every_metric().items():
            metric.update(*cases(metric, 0, 20))
            for values in found[name]:
                assert torch.equal(values, metric.per_case()), name


@pytest.mark.gpu
@pytest.mark.parametrize("name", every_metric())
def test_on_a_gpu_they_equal_the_cpu(name):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    metric, on_cpu = every_metric()[name].to("cuda"), every_metric()[name]
    arguments = [torch.as_tensor(each) for each in cases(metric, 0, 50)]
    on_cpu.update(*arguments)
    arguments = [each.to("cuda") for each in arguments]
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.update(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metric.per_case().device.type == "cuda"
    torch.testing.assert_close(metric.per_case().cpu(), on_cpu.per_case(), rtol=1e-12, atol=1e-12)
