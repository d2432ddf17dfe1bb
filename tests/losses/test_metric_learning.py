"""Every loss and miner of pytorch-metric-learning against the library called directly; values and gradients."""

import copy
import io
from dataclasses import replace

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as theirs
from pytorch_metric_learning import miners

from finetune.config.build import build
from finetune.config.losses import filled
from finetune.config.rules import INSTEAD
from finetune.errors import CheckFailed
from finetune.losses.metric_learning import MetricLearning
from finetune.losses.pml_rules import META_CLASSES, SQUARE, TWO_VIEWS, UNMINED
from tests.losses.batches import batch_of, classed, embeddings


def alone(module):
    """The names of the classes of a module that can be used by themselves."""
    kinds = {name: kind for name, kind in vars(module).items() if isinstance(kind, type)}
    return sorted(name for name, kind in kinds.items() if f"{kind.__module__}.{kind.__name__}" not in INSTEAD)


LOSSES, MINERS = alone(theirs), alone(miners)
NEEDED = {"RankedListLoss": {"margin": 0.4, "Tn": 1}, "ManifoldLoss": {"K": 4}}
WIDTH = 6
LABELS = [7, 7, 7, 2, 2, 2, 5, 5, 5]
CLASSES = [2, 5, 7]
NUMBERED = torch.tensor([CLASSES.index(label) for label in LABELS])


def make(name, miner=None, classes=CLASSES, **more):
    """The loss that a run builds from a config."""
    inner = {"_target_": f"pytorch_metric_learning.losses.{name}", **NEEDED.get(name, {})}
    node = {"_target_": "finetune.losses.metric_learning.MetricLearning", "loss": inner, **more}
    facts = {"miner": miner, "classes": classes, "class_count": len(classes), "width": WIDTH}
    torch.manual_seed(1)
    return build(filled(node, facts), "loss")


def directly(name, loss, emb, batch, labels, indices=None):
    """The result of the library."""
    if name in TWO_VIEWS:
        return loss(emb[batch.anchor_B], ref_emb=emb[batch.positive_B])
    if name in META_CLASSES:
        return loss(emb, indices_tuple=labels % 4)
    return loss(emb, labels, indices)


def same(ours, expected, emb):
    torch.testing.assert_close(ours, expected.to(ours))
    gradients = [torch.autograd.grad(value, emb, retain_graph=True)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].isfinite().all()


def test_the_classes_that_can_stand_alone():
    assert len(LOSSES) == 35
    assert len(MINERS) == 9


@pytest.mark.parametrize("name", LOSSES)
def test_labelled_items(name):
    batch = classed(LABELS)
    emb = embeddings(batch)
    ours = make(name)
    inner = copy.deepcopy(ours.loss)
    value = ours(emb, batch)
    expected = directly(name, inner, emb, batch, NUMBERED)
    assert expected != 0
    same(value, expected, emb)
    value.backward()
    directly(name, inner, emb, batch, NUMBERED).backward()
    for mine, peer in zip(ours.parameters(), inner.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, peer.grad)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in TWO_VIEWS | META_CLASSES | SQUARE])
def test_pairs_of_those_that_need_no_classes(name):
    ours = make(name, classes=[])
    if list(ours.parameters()):
        return
    batch = batch_of([(0, 6), (1, 6), (2, 7), (3, 8), (4, 9), (5, 9)])
    emb = embeddings(batch)
    labels = torch.tensor([0, 0, 1, 2, 3, 3, 0, 1, 2, 3])
    inner = copy.deepcopy(ours.loss)
    same(ours(emb, batch), inner(emb, labels), emb)


PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(10, 19)), min_size=3, max_size=12)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.integers(0, 99))
def test_connected_items_have_one_label(pairs, seed):
    batch = batch_of(pairs)
    emb = embeddings(batch, seed)
    graph = networkx.Graph(pairs)
    parts = list(networkx.connected_components(graph))
    labels = [next(i for i, part in enumerate(parts) if item in part) for item in batch.items_N.tolist()]
    ours = make("TripletMarginLoss", classes=[])
    same(ours(emb, batch), theirs.TripletMarginLoss()(emb, torch.tensor(labels)), emb)


def test_smooth_ap_uses_m_items_of_m_classes():
    labels = [3, 1, 1, 0, 1, 0, 2, 0, 2, 1]
    batch = replace(classed(labels), label_B=None)  # item 3 has no positive
    assert len(batch.items_N) == 9
    emb = embeddings(batch)
    kept = torch.tensor([2, 4, 0, 1])  # two of 0, two of 1
    expected = theirs.SmoothAPLoss()(emb[kept], torch.tensor([0, 0, 1, 1]))
    same(make("SmoothAPLoss")(emb, batch), expected, emb)


@pytest.mark.parametrize("name", MINERS)
def test_miners(name):
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    batch = classed(labels.tolist())
    emb = embeddings(batch)
    miner = getattr(miners, name)()
    changed = False
    for loss in ("TripletMarginLoss", "MultiSimilarityLoss", "ArcFaceLoss"):
        ours = make(loss, miner, classes=[0, 1, 2])
        inner = copy.deepcopy(ours.loss)
        torch.manual_seed(3)
        value = ours(emb, batch)
        torch.manual_seed(3)
        same(value, inner(emb, labels, miner(emb, labels)), emb)
        changed |= bool(value != inner(emb, labels))
    assert changed


@pytest.mark.parametrize("name", LOSSES)
def test_losses_without_a_miner_are_listed(name):
    inner = make(name).loss
    emb = embeddings(classed(LABELS))
    some = tuple(torch.tensor(each) for each in ([0, 3, 6], [1, 4, 7], [3, 6, 0]))
    refused = name in META_CLASSES
    try:
        inner(emb, None if name in TWO_VIEWS else NUMBERED, some)
    except ValueError as error:
        refused |= "indices_tuple is not supported" in str(error)
    assert refused == (name in UNMINED)


@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner()])
def test_a_memory_of_earlier_batches(miner):
    ours = make("ContrastiveLoss", miner, memory=20)
    oracle = theirs.CrossBatchMemory(theirs.ContrastiveLoss(), WIDTH, 20, miner)
    batch = classed(LABELS)
    for seed in range(3):  # the third is out of range
        emb = embeddings(batch, seed)
        same(ours(emb, batch), oracle(emb, NUMBERED), emb)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    again = make("ContrastiveLoss", miner, memory=20)
    again.load_state_dict(torch.load(file, weights_only=True))
    emb = embeddings(batch, 4)
    same(again(emb, batch), oracle(emb, NUMBERED), emb)


def test_a_memory_with_groups_and_single_items():
    batch = replace(classed([0, 0, 1, 1]), label_B=None, group_N=torch.tensor([8, 8, -1, -2]))
    emb = embeddings(batch)
    ours = make("ContrastiveLoss", classes=[], memory=8)
    oracle = theirs.CrossBatchMemory(theirs.ContrastiveLoss(), WIDTH, 8)
    same(ours(emb, batch), oracle(emb, torch.tensor([8, 8, -3, -4])), emb)
    # Items without a group in the next batch are different items.
    later = replace(batch, items_N=batch.items_N + 4)
    same(ours(emb, later), oracle(emb, torch.tensor([8, 8, -7, -8])), emb)


def test_a_running_histogram_is_resumed():
    batch = classed(LABELS)
    ours, again = make("DynamicSoftMarginLoss"), make("DynamicSoftMarginLoss")
    ours(embeddings(batch).float(), batch)
    again.load_state_dict(ours.state_dict())
    emb = embeddings(batch, 1).float()
    assert again(emb, batch) == ours(emb, batch) != make("DynamicSoftMarginLoss")(emb, batch)


def test_weights_stay_in_fp32():
    ours = make("P2SGradLoss").to(torch.bfloat16)
    assert ours.loss.weight.dtype == torch.float32
    assert ours(embeddings(classed(LABELS)).float(), classed(LABELS)).isfinite()
    assert ours.double().loss.weight.dtype == torch.float64


def test_items_without_a_positive_are_finite():
    batch = replace(batch_of([(0, 1), (2, 3)]), known_E2=torch.empty(0, 2, dtype=torch.long))
    emb = embeddings(batch)
    for name in LOSSES:
        ours = make(name, classes=[])
        if not list(ours.parameters()):
            assert torch.autograd.grad(ours(emb, batch), emb)[0].isfinite().all(), name


@pytest.mark.parametrize(
    ("name", "more", "answer"),
    [
        ("FastAPLoss", {"memory": 9}, "FastAPLoss cannot use a memory.*ContrastiveLoss"),
        ("CircleLoss", {"lr": 0.1}, "CircleLoss has no parameters"),
    ],
)
def test_what_a_loss_cannot_do_is_refused(name, more, answer):
    with pytest.raises(CheckFailed, match=answer):
        make(name, **more)


def test_one_width_only():
    for loss in (make("ArcFaceLoss"), make("CircleLoss", memory=9)):
        loss.check_width(WIDTH)
        with pytest.raises(CheckFailed, match="width 6, and the embeddings have 3"):
            loss.check_width(3)
    make("CircleLoss").check_width(3)


def test_another_distance():
    part = {"_target_": "pytorch_metric_learning.distances.LpDistance", "p": 1}
    node = {"_target_": "finetune.losses.metric_learning.MetricLearning"}
    node["loss"] = {"_target_": "pytorch_metric_learning.losses.ContrastiveLoss", "distance": part}
    ours = build(filled(node, {"miner": None, "classes": [], "class_count": 0, "width": WIDTH}), "loss")
    assert isinstance(ours, MetricLearning)
    assert ours.loss.distance.p == 1
