"""Hard negatives of a run: mined before the training, again during it, and the same ones after a resume."""

import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from finetune.inference.load import get_model
from finetune.training import assembly
from finetune.training.fit import fit
from tests.training.test_fit import KillAt, Killed, weights

MINED = ["negatives=dense", "negatives.count=2", "negatives.last_rank=8", "negatives.max_share_of_positive=null",
         "negatives.near_duplicates=false"]  # fmt: skip


class Recorder(pl.Callback):
    """Records the negatives of each batch by their item numbers."""

    def __init__(self):
        self.negatives = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        mined_Bn = batch.negatives_Bn[:, -2:]
        items = torch.where(mined_Bn < 0, -1, batch.items_N[mined_Bn.clamp(min=0)])
        anchors = batch.items_N[batch.anchor_B]
        self.negatives.append({int(a): row.tolist() for a, row in zip(anchors, items, strict=True)})


def fit_with(callbacks, monkeypatch, *arguments, **kwargs):
    """Do a run with more callbacks, which are called last."""
    real = assembly.build_trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            assembly,
            "build_trainer",
            lambda node, run, n, calls, *rest: real(node, run, n, [*calls, *callbacks], *rest),
        )
        fit(*arguments, **kwargs)


def state_of(run):
    callbacks = torch.load(run.last_checkpoint, weights_only=True)["callbacks"]
    return next(state for name, state in callbacks.items() if "MineNegatives" in name)


def test_the_untouched_model_mines_what_is_nearest_and_not_right(start, monkeypatch, tiny_model):
    cfg, dataset, run = start("mined", *MINED, "trainer.max_steps=3", "evaluation=none")
    recorder = Recorder()
    fit_with([recorder], monkeypatch, cfg, dataset, run)
    train = dataset.train
    emb_ND = get_model(str(tiny_model)).encode(dataset.items.take(np.arange(len(dataset.items))), normalize=True)
    documents = np.setdiff1d(np.concatenate([train.positive, train.negatives.ravel()]), [-1])
    found = 0
    assert len(recorder.negatives) == 3
    for anchor, negatives in (pair for batch in recorder.negatives for pair in batch.items()):
        right = [anchor, *dataset.known.of(np.array([anchor]))[1]]
        nearest = documents[np.argsort(-(emb_ND[documents] @ emb_ND[anchor]), kind="stable")][:8]
        expected = nearest[~np.isin(nearest, right)][:2]
        mined = [item for item in negatives if item >= 0]
        assert not set(mined) & set(right)
        scores = emb_ND[anchor] @ emb_ND[[*mined, *expected]].T  # documents may be equally near
        assert scores[: len(mined)] == pytest.approx(scores[len(mined) :], abs=1e-5)
        found += len(mined)
    assert found


def test_mining_again_takes_the_model_as_it_is_then(start, monkeypatch):
    recorder = Recorder()
    cfg, dataset, run = start("again", *MINED, "negatives.every_n_steps=3", "trainer.max_steps=9", "evaluation=none",
                              "optimizer.lr=0.01")  # fmt: skip
    fit_with([recorder], monkeypatch, cfg, dataset, run)
    state = state_of(run)
    assert [one["step"] for one in state["rounds"]] == [0, 3, 6]  # not after the last step, for nothing
    used = {}
    for step, batch in enumerate(recorder.negatives):
        for anchor, negatives in batch.items():
            used.setdefault(anchor, {}).setdefault(step // 3, set()).add(tuple(negatives))
    assert all(len(found) == 1 for by_round in used.values() for found in by_round.values())
    assert any(len(set().union(*by_round.values())) > 1 for by_round in used.values())
    assert [one["step"] for one in json.loads((run.path / "report.json").read_text())["negatives"]["rounds"]] == [
        0,
        3,
        6,
    ]


@pytest.mark.parametrize("picked", ["top", "random"])
def test_a_run_that_is_killed_after_every_step_has_the_same_negatives_and_weights(start, monkeypatch, picked):
    more = [*MINED, "negatives.every_n_steps=2", f"negatives.pick={picked}", "evaluation=none",
            "trainer.max_epochs=null", "trainer.max_steps=7", "optimizer.lr=0.01",
            "callbacks.checkpoint.every_n_steps=1"]  # fmt: skip
    whole, broken = Recorder(), Recorder()
    cfg, dataset, run = start("whole", *more)
    fit_with([whole], monkeypatch, cfg, dataset, run)
    cfg, dataset, killed = start("killed", *more)
    step = 0
    while True:
        try:
            checkpoint = killed.saved.path(step) if step else None
            fit_with([broken, KillAt(step + 1)], monkeypatch, cfg, dataset, killed, checkpoint)
            break
        except Killed:
            step = killed.saved.steps()[-1]
    assert broken.negatives == whole.negatives
    one, two = weights(run), weights(killed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(state_of(run)["negatives"], state_of(killed)["negatives"])
    assert [each["step"] for each in state_of(killed)["rounds"]] == [0, 2, 4, 6]
