"""Losses of pytorch-metric-learning in a run: their own learning rate, and a resume to the same weights."""

import pytest
import torch

from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.data.load import load
from finetune.data.settings import data_settings
from finetune.errors import Interrupted
from finetune.runner.run_setup import find_run
from finetune.training.assembly import assemble
from finetune.training.fit import fit
from tests.conftest import WORDS, quick
from tests.training.test_fit import Spy, fit_with, weights


@pytest.fixture
def start(tiny_model, tmp_path, monkeypatch):
    """Make a checked config over labelled texts with its data and a fresh run directory."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{a} {b},{a}" for a in WORDS[:6] for b in WORDS[10:19]]
    (tmp_path / "classes.csv").write_text("\n".join(["item,label", *rows]), encoding="utf-8")

    def make(name, *more):
        named = [f"name={name}", f"output_root={tmp_path}/outputs", "data.path=classes.csv", "evaluation=none"]
        overrides = [*quick(tiny_model), *more, *named]
        cfg = check(overrides)
        dataset = load(data_settings(cfg), cfg.seed)
        return cfg, dataset, find_run(cfg, overrides, dataset, Arguments(overrides))[0]

    return make


def groups(parts):
    """The learning rate, the decay and the names of the weights of each group of the optimizer."""
    parts.trainer.strategy._lightning_module = parts.module
    parts.module._trainer = parts.trainer
    by_id = {id(p): name for name, p in parts.module.named_parameters()}
    found = parts.module.configure_optimizers()["optimizer"].param_groups
    return [(one["initial_lr"], one["weight_decay"], [by_id[id(p)] for p in one["params"]]) for one in found]


def test_the_learning_rate_of_a_loss_reaches_the_optimizer(start):
    *encoder, own = groups(assemble(*start("own", "loss=arcface", "loss.lr=0.5")))
    assert own == (0.5, 0.01, ["losses.0.loss.W"])
    assert [rate for rate, *_ in encoder] == [1e-3, 1e-3]
    plain = groups(assemble(*start("plain", "loss=arcface")))
    assert len(plain) == 2
    assert "losses.0.loss.W" in plain[0][2]


def test_the_learning_rate_of_a_loss_within_a_sum_reaches_the_optimizer(start):
    words = ["loss=sum", "loss@loss.losses.main=margin", "loss.losses.main.loss.learn_beta=true"]
    own = groups(assemble(*start("sum", *words, "+loss.losses.main.lr=0.5")))[-1]
    assert own == (0.5, 0.0, ["losses.0.losses.main.loss.beta"])


def test_classes_are_those_of_the_training_data(start):
    cfg, dataset, run = start("classes", "loss=arcface")
    loss = assemble(cfg, dataset, run).module.losses[0]
    assert loss.classes_C.tolist() == sorted(set(dataset.train.label.tolist()))
    assert loss.loss.W.shape == (32, len(loss.classes_C))


@pytest.mark.parametrize(
    "words",
    [
        "loss=soft_triple loss.lr=0.05",
        "loss=triplet_margin loss.memory=60 miner=distance_weighted",
        "loss=dynamic_soft_margin",
    ],
)
def test_an_interrupted_run_ends_with_the_same_weights(words, start, monkeypatch):
    more = [*words.split(), "trainer.max_epochs=4"]
    cfg, dataset, whole = start("whole", *more)
    fit(cfg, dataset, whole)
    cfg, dataset, broken = start("broken", *more)
    with pytest.raises(Interrupted):
        fit_with(Spy(stop_at=6), monkeypatch, cfg, dataset, broken)
    monkeypatch.undo()
    fit(cfg, dataset, broken, checkpoint=broken.checkpoints / "last.ckpt")
    ours, plain = weights(broken), weights(whole)
    assert ours.keys() == plain.keys()
    assert any(name.startswith("losses.0.loss.") for name in ours)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
