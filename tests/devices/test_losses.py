"""Every loss on the device: no synchronization, and the value and gradients of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import finetune.conf
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from finetune.config.build import build
from finetune.config.compose import compose
from finetune.config.losses import filled
from finetune.data.batching.batch import Batch
from finetune.losses.loss import Loss, local_loss, local_loss_from_scores, total_weight
from finetune.losses.metric_learning import MetricLearning
from tests.devices.fake_cuda import CUDA, FakeCuda, Sync
from tests.losses.batches import batch_of, classed

WIDTH, LABELS = 8, [7, 7, 7, 2, 2, 2, 5, 5, 5]
CONFIGS = {file.stem: file for folder in finetune.conf.__path__ for file in Path(folder).glob("loss/*.yaml")}
# What a config leaves to the user, and what has to fit to the width here.
NEEDED = {
    "embedding_mse": ["loss.teacher=x"],
    "metric_learning": ["loss.loss._target_=pytorch_metric_learning.losses.ContrastiveLoss"],
    "matryoshka": ["loss.dimensions=[8,4]"],
    "layers": ["loss.layers=[1]"],
}
# Settings that select other code than those of the config.
VARIANTS: dict[str, list[list[str]]] = {
    "infonce": [
        ["loss.symmetric=false", "loss.learn_temperature=true", "loss.margin=0.1", "loss.hardness=2"],
        ["loss.false_negative_margin=0.1"],
        ["loss.guide=x"],
        ["loss.negatives=given"],
    ],
    "triplet": [[f"loss.negatives={negatives}"] for negatives in ("given", "all", "hard", "semi_hard")]
    + [["loss.distance=euclidean", "loss.soft=true", "loss.negatives=hard"]],
    "contrastive": [["loss.only_hard=true"]],
    "lambda_loss": [[f"loss.weighting={weighting}", "loss.k=2"] for weighting in ("none", "ndcg1", "lambdarank")],
    "listmle": [["loss.position_aware=true"]],
    "embedding_mse": [["loss.of=anchor"]],
    "matryoshka": [["loss@loss.loss=supcon"]],
    "layers": [["loss@loss.loss=matryoshka", "loss.loss.dimensions=[4]"]],
    "sum": [["loss@loss.losses.main=cosent"]],
    "metric_learning": [["loss.memory=32"], ["miner=multi_similarity"]],
}
LIBRARY = {
    "losses/metric_learning:_call",
    "losses/metric_learning:_loss",  # the miner
    "losses/metric_learning:_square",
    "losses/masks:connected_components",
    "autograd/graph:_engine_run_backward",  # the gradients of indexing by masks
}
CASES = [(name, ()) for name in CONFIGS] + [(name, tuple(more)) for name, each in VARIANTS.items() for more in each]


def make(name: str, settings: tuple[str, ...]) -> nn.Module:
    """Return the loss of a config, as a run builds it."""
    node, miner = read(name, settings)
    facts = {"miner": miner and build(miner, "miner"), "classes": [2, 5, 7], "class_count": 3, "width": WIDTH}
    torch.manual_seed(0)
    loss: nn.Module = build(filled(node, facts), "loss")
    return loss


@cache
def read(name: str, settings: tuple[str, ...]) -> tuple[Any, Any]:
    """Return the nodes of loss and miner."""
    overrides, own = [*NEEDED.get(name, []), *settings], OmegaConf.load(CONFIGS[name])
    if "defaults" in own or any(not setting.startswith("loss.") for setting in overrides):
        cfg = compose([f"loss={name}", *overrides])
        return OmegaConf.to_container(cfg.loss, resolve=True), OmegaConf.to_container(cfg.miner, resolve=True)
    changed = OmegaConf.merge({"loss": own}, OmegaConf.from_dotlist(overrides))  # composing takes ten times as long
    return OmegaConf.to_container(changed, resolve=True)["loss"], None  # type: ignore[call-overload,index]


def batches(loss: nn.Module) -> Iterator[tuple[str, Batch]]:
    """Yield batches that a loss can learn from: labeled items, and rows of documents with scores and weights."""
    learns_from = _learns_from(loss)
    generator = torch.Generator().manual_seed(0)
    labeled = classed(LABELS)
    rows = batch_of([(0, 5, 10, -1), (1, 6, 10, 11), (2, 7, -1, -1), (3, 8, 11, 12), (4, 9, 12, 0)])
    weights = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0], dtype=torch.float64)
    scores = torch.randint(0, 4, (5, 3), generator=generator).double() / 3
    teacher = {"teacher_ND": torch.randn(len(rows.items_N), WIDTH, generator=generator)}
    if "pairs" in learns_from or not learns_from:
        yield "labeled", replace(labeled, teacher_ND=torch.randn(len(labeled.items_N), WIDTH, generator=generator))
    # The classes of rows: a loss with weights of classes needs them.
    yield "rows", replace(rows, label_B=torch.tensor([2, 5, 7, 2, 5]), **teacher)
    yield "scored", replace(rows, score_Bk=scores, weight_B=weights, label_B=torch.tensor([2, 5, 7, 2, 5]), **teacher)


def _learns_from(loss: nn.Module) -> set[str]:
    inner = [each for each in loss.modules() if isinstance(each, Loss)]
    return {what for each in inner for what in each.learns_from}


def embeddings(loss: nn.Module, batch: Batch) -> Tensor:
    """Return embeddings `(N, D)`, or `(N, L, D)` for a loss of layers."""
    layers = getattr(loss, "layers", ())
    shape = (len(batch.items_N), len(layers) + 1, WIDTH) if layers else (len(batch.items_N), WIDTH)
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return nn.functional.normalize(values, dim=-1)


def outside_of_the_library(loss: nn.Module, syncs: list[Sync]) -> list[Sync]:
    """Return the synchronizations that are not those of pytorch-metric-learning.

    Its losses and miners select pairs by masks, so that the number of pairs has to be known on the CPU; and they need
    the number of a group for each item, which takes as many rounds as the longest chain of positives.
    """
    if not any(isinstance(each, MetricLearning) for each in loss.modules()):
        return syncs
    return [sync for sync in syncs if sync.where not in LIBRARY]


def gradients(emb: Tensor, loss: nn.Module) -> list[Tensor]:
    found = [emb.grad, *(weight.grad for weight in loss.parameters())]
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[" ".join([name, *more]) for name, more in CASES])
def test_a_loss_has_the_numbers_of_the_cpu_and_does_not_wait(name, settings):
    for kind, batch in batches(make(name, settings)):
        expected, loss = make(name, settings), make(name, settings)
        emb = embeddings(expected, batch).requires_grad_()
        value = local_loss(expected, emb, batch, 0, 1)
        value.backward()
        total = total_weight(expected, batch)
        with FakeCuda.active() as cuda:
            loss.to(CUDA)
            on_cuda = batch.to(CUDA)
            emb_cuda = torch.nn.Parameter(embeddings(expected, batch).to(CUDA))
            with cuda.recording() as syncs:
                found = local_loss(loss, emb_cuda, on_cuda, 0, 1)
                found.backward()
                found_total = total_weight(loss, on_cuda)
            assert found.device == CUDA
            found_gradients = [gradient.host for gradient in gradients(emb_cuda, loss)]
        torch.testing.assert_close(found.host, value, msg=kind)
        torch.testing.assert_close(float(getattr(found_total, "host", found_total)), float(total))
        for one, other in zip(found_gradients, gradients(emb, expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert not outside_of_the_library(loss, syncs), kind


def test_scores_of_a_cross_encoder():
    rows = batch_of([(0, 5, 10, -1), (1, 6, 10, 11), (2, 7, -1, -1)])
    pairs = torch.tensor([[0, 1, -1], [2, 3, 4], [5, -1, -1]])
    scores = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
    names = [name for name in CONFIGS if getattr(make(name, ()), "takes_scores", False)]
    assert len(names) >= 7
    for name in names:
        for batch in (replace(rows, pair_Bk=pairs), replace(rows, pair_Bk=pairs, score_Bk=pairs.double() / 5)):
            value = local_loss_from_scores(make(name, ()), scores, batch, 0, 1)
            with FakeCuda.active() as cuda:
                loss, on_cuda = make(name, ()).to(CUDA), (scores.to(CUDA), batch.to(CUDA))
                with cuda.recording() as syncs:
                    found = local_loss_from_scores(loss, *on_cuda, 0, 1)
            assert syncs == [], name
            torch.testing.assert_close(found.host, value, msg=name)
