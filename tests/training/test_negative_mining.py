"""Hard negatives of a run: mined before the training, again during it, and the same ones after a resume."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from finetune.config.build import build
from finetune.data.settings import data_settings
from finetune.inference.load import get_model
from finetune.mining.inputs import mining_inputs
from finetune.training import assembly
from finetune.training.encoder import build_encoder
from finetune.training.fit import fit
from tests.conftest import quick, run_train
from tests.training.test_fit import KillAt, Killed, weights
from tests.training.test_processes import assert_close, write_rows

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


def test_negatives_of_a_file_and_of_a_corpus(start, monkeypatch, tmp_path):
    """Documents that are not in the data become items; pairs are found by their texts, in several rows or none."""
    cfg, dataset, run = start("plain")
    anchor, positive = dataset.items.take(dataset.train.columns()[0, :2])
    other = dataset.items.take(dataset.train.columns()[1, :2])
    rows = [[anchor, positive, "nowhere else"], [anchor, positive, positive.upper()],
            [anchor, positive, "a third text"], ["unknown", "pair", "left out"],
            [*other, "nowhere else"]]  # fmt: skip
    pq.write_table(
        pa.table(dict(zip(("anchor", "positive", "negative"), map(list, zip(*rows, strict=True)), strict=True))),
        tmp_path / "mined.parquet",
    )
    more = ["negatives=file", "negatives.path=mined.parquet", "trainer.max_epochs=1", "evaluation=none"]
    cfg, dataset, run = start("file", *more)
    inputs = mining_inputs(build(cfg.negatives, "negatives"), dataset, data_settings(cfg))
    assert inputs.dataset.items.take(inputs.given[0]) == ["nowhere else", "a third text"]
    assert inputs.dataset.items.take(inputs.given[1][:1]) == ["nowhere else"]
    assert (inputs.given[2:] == -1).all()
    assert inputs.dataset.items.take(np.arange(len(dataset.items))) == dataset.items.take(np.arange(len(dataset.items)))
    fit(cfg, dataset, run)
    assert state_of(run)["negatives"].tolist() == inputs.given.tolist()

    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(9)))
    more = [*MINED, "negatives.corpus={path: corpus.jsonl}", "trainer.max_steps=1", "evaluation=none"]
    cfg, dataset, run = start("corpus", *more)
    fit(cfg, dataset, run)
    inputs = mining_inputs(build(cfg.negatives, "negatives"), dataset, data_settings(cfg))
    found = inputs.dataset.items.take(np.unique(state_of(run)["negatives"].numpy()))
    assert found
    assert all(text.startswith("document ") for text in found)


def test_what_a_judge_finds_right_takes_turns_with_the_positive(start):
    cfg, dataset, _run = start("judged")
    data = assembly._build_data(cfg, data_settings(cfg), dataset, build_encoder(cfg.model, dataset.items))
    train = dataset.train
    anchor = int(train.anchor[0])
    others = np.setdiff1d(train.positive, dataset.known.of(np.array([anchor]))[1])[:2]
    relabelled = np.array([[anchor, other] for other in others])
    data.set_mined(np.full((len(train), 1), -1), relabelled)
    batches = data.train_dataloader()
    rows = np.flatnonzero(train.anchor == anchor)[:1]
    seen = []
    for epoch in range(6):
        batches.set_epoch(epoch)
        batch = batches.batch(rows)
        seen.append(int(batch.items_N[batch.positive_B[0]]))
    assert sorted(seen[:3]) == sorted([int(train.positive[rows[0]]), *others.tolist()])
    assert seen[3:] == seen[:3]
    assert set(others.tolist()) <= set(batches.known.of(np.array([anchor]))[1].tolist())


@pytest.mark.thorough
def test_two_processes_mine_what_one_does(tiny_model, tmp_path):
    write_rows(tmp_path / "pairs.csv")
    more = [*MINED, "negatives.every_n_steps=2", "trainer.max_steps=5", "evaluation=none", "model.dropout=0"]
    for devices in (1, 2):
        words = quick(tiny_model, *more, f"name=run{devices}", f"trainer.devices={devices}")
        done = run_train(*words, cwd=tmp_path, warm={})
        assert done.returncode == 0, done.stderr
    one, two = (
        torch.load(tmp_path / f"outputs/default/run{n}/checkpoints/last.ckpt", weights_only=True) for n in (1, 2)
    )
    states = [next(v for k, v in each["callbacks"].items() if "MineNegatives" in k) for each in (one, two)]
    assert torch.equal(states[0]["negatives"], states[1]["negatives"])
    assert_close(one["state_dict"], two["state_dict"])
