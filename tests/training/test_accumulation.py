"""Gradient accumulation: an optimizer step has the gradient of the mean over all rows of its batches."""

import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from finetune.errors import Interrupted
from finetune.losses.loss import total_weight
from finetune.training.fit import fit
from tests.training.test_fit import Spy, fit_with, weights

PLAIN = ["evaluation=none", "model.dropout=0", "trainer.precision=32-true", "trainer.gradient_clip_val=null",
         "trainer.max_epochs=1"]  # fmt: skip


class Gradients(pl.Callback):
    """Records the gradient of each optimizer step, and the expected one: that of one weighted mean."""

    def __init__(self):
        self.batches, self.got, self.expected, self.groups = [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        weights = [p for p in module.parameters() if p.grad is not None]
        self.got.append(torch.cat([p.grad.flatten() for p in weights]))
        lost = [module.losses[batch.source or 0](module.embed(batch), batch) for batch in self.batches]
        counts = [total_weight(module.losses[batch.source or 0], batch) for batch in self.batches]
        mean = sum(n * loss for n, loss in zip(counts, lost, strict=True)) / sum(counts)
        self.expected.append(torch.cat([g.flatten() for g in torch.autograd.grad(mean, weights)]))
        self.groups.append(len(self.batches))
        self.batches = []


@pytest.mark.parametrize(
    ("more", "groups"),
    [
        # 108 training pairs make 7 batches of 15 or 16.
        (["trainer.accumulate_grad_batches=40"], [7]),
        (["trainer.accumulate_grad_batches=3"], [3, 3, 1]),
        (["trainer.accumulate_grad_batches=3", "+trainer.limit_train_batches=5"], [3, 2]),
        (["trainer.accumulate_grad_batches=5", "trainer.max_steps=2"], [5, 2]),
        (["trainer.accumulate_grad_batches=4", "loss=supcon"], [4, 3]),
        (["trainer.accumulate_grad_batches=4", "loss=matryoshka", "loss.dimensions=[32,8]"], [4, 3]),
        (["trainer.accumulate_grad_batches=40", "trainer.precision=bf16-mixed"], [7]),
        (["trainer.accumulate_grad_batches=1"], [1] * 7),
    ],
    ids=str,
)
def test_a_step_has_the_gradient_of_the_mean_over_its_rows(start, monkeypatch, more, groups):
    spy = Gradients()
    fit_with(spy, monkeypatch, *start("mean", *PLAIN, *more))
    assert spy.groups == groups
    for got, expected in zip(spy.got, spy.expected, strict=True):
        assert expected.abs().max() > 1e-3
        tolerance = 0.05 if "bf16" in str(more) else 1e-4
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_rows_are_weighted(start, monkeypatch, tmp_path):
    cfg, *_ = start("unused")
    rows = list(csv.DictReader(Path(cfg.data.path).read_text().splitlines()))
    with (tmp_path / "weighted.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, [*rows[0], "weight"])
        out.writeheader()
        out.writerows(row | {"weight": 0.1 + n % 7} for n, row in enumerate(rows))
    spy = Gradients()
    more = [f"data.path={tmp_path}/weighted.csv", "trainer.accumulate_grad_batches=3"]
    fit_with(spy, monkeypatch, *start("weighted", *PLAIN, *more))
    assert len(spy.got) == 3
    for got, expected in zip(spy.got, spy.expected, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_an_incomplete_accumulation_is_clipped_and_applied_like_a_complete_one(start):
    """Clipping and Adam's moments use the corrected gradient."""
    found = []
    for accumulate in (7, 40):
        more = [f"trainer.accumulate_grad_batches={accumulate}", "trainer.gradient_clip_val=0.01"]
        cfg, dataset, run = start(f"clip{accumulate}", *PLAIN[:3], *more, "trainer.max_epochs=2")
        fit(cfg, dataset, run)
        found.append(torch.load(run.last_checkpoint, weights_only=True))
    seven, forty = found
    assert seven["global_step"] == forty["global_step"] == 2
    for name, weight in seven["state_dict"].items():
        torch.testing.assert_close(forty["state_dict"][name], weight, rtol=1e-5, atol=1e-7)
    moments = [state["optimizer_states"][0]["state"] for state in found]
    for number in moments[0]:
        torch.testing.assert_close(moments[1][number]["exp_avg"], moments[0][number]["exp_avg"], rtol=1e-4, atol=1e-9)


def test_a_run_that_resumes_before_the_last_group_ends_with_the_same_weights(start, monkeypatch):
    more = [*PLAIN[:3], "trainer.accumulate_grad_batches=4", "trainer.max_epochs=2"]
    cfg, dataset, whole = start("whole", *more)
    fit(cfg, dataset, whole)
    cfg, dataset, broken = start("broken", *more)
    with pytest.raises(Interrupted, match="at step 3"):
        fit_with(Spy(stop_at=3), monkeypatch, cfg, dataset, broken)
    monkeypatch.undo()
    fit(cfg, dataset, broken, checkpoint=broken.checkpoints / "last.ckpt")
    assert all(torch.equal(weights(broken)[name], weight) for name, weight in weights(whole).items())
