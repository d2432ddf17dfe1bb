"""A run in one process: train mode, resume to the same weights, parameter groups."""

import json
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from finetune.errors import Interrupted, RunError
from finetune.training import assembly
from finetune.training.assembly import assemble
from finetune.training.fit import fit
from finetune.training.module import EmbeddingModule
from finetune.training.trainer import total_steps
from tests.conftest import thorough


class Spy(pl.Callback):
    """Inspects the module during the training."""

    def __init__(self, stop_at=None, fail=None):
        self.modes, self.stop_at, self.fail, self.dropped = [], stop_at, fail, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.modes.append(all(m.training for m in module.modules()))
        # A layer with hooks inside is not fused, and rounds otherwise: none where weights are compared bit by bit.
        self.hooks = [
            m.register_forward_hook(lambda _, given, out: self.count(given[0], out))
            for m in module.modules()
            if isinstance(m, nn.Dropout) and self.stop_at is None
        ]

    def count(self, given, out):
        self.dropped += int(((out == 0) & (given != 0)).sum())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        for hook in self.hooks:
            hook.remove()
        if self.fail:
            raise self.fail
        if trainer.global_step == self.stop_at:
            parts_stop(trainer).stopped_by = "Ctrl-C"


def parts_stop(trainer):
    return next(c for c in trainer.callbacks if type(c).__name__ == "StopOnSignal")


def fit_with(spy, monkeypatch, *arguments, **kwargs):
    real = assembly.build_trainer
    # The spy comes first, so that a wish to stop is seen in the same step, as a signal would be.
    monkeypatch.setattr(
        assembly, "build_trainer", lambda node, run, n, calls, *rest: real(node, run, n, [spy, *calls], *rest)
    )
    fit(*arguments, **kwargs)


def weights(run):
    return torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]


def test_training_is_in_train_mode_with_dropout_after_an_evaluation(start, monkeypatch):
    spy = Spy()
    fit_with(spy, monkeypatch, *start("mode", "trainer.max_steps=3"))
    assert spy.modes == [True] * 3
    assert spy.dropped > 0


def test_the_learning_rate_of_a_step_is_logged_and_in_its_checkpoint(start):
    cfg, dataset, run = start("rate", "trainer.max_steps=4", "trainer.max_epochs=null", "evaluation=none",
                              "scheduler=linear", "scheduler.warmup=0.5")  # fmt: skip
    fit(cfg, dataset, run)
    rows = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    # Half of the steps warm up to 1e-3; the others are at 2/3 and 1/3 of the way down.
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-4, 1e-3, 2e-3 / 3, 1e-3 / 3])
    saved = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["metrics"]
    assert saved == {name: rows[-1][name] for name in ("loss", "learning_rate")}


# Inside the first epoch, at its end, inside the second.
@pytest.mark.parametrize("stop_at", [thorough(3), thorough(7), 10])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interrupted_run_ends_with_the_same_weights(start, monkeypatch, stop_at, accumulate):
    more = [f"trainer.accumulate_grad_batches={accumulate}", "evaluation=none"]
    cfg, dataset, whole = start("whole", *more)
    fit(cfg, dataset, whole)
    cfg, dataset, broken = start("broken", *more)
    with pytest.raises(Interrupted, match=f"at step {stop_at}"):
        fit_with(Spy(stop_at=stop_at), monkeypatch, cfg, dataset, broken)
    monkeypatch.undo()
    fit(cfg, dataset, broken, checkpoint=broken.checkpoints / "last.ckpt")
    ours, plain = weights(broken), weights(whole)
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    losses = [json.loads(line)["loss"] for line in broken.metrics_path.read_text().splitlines() if "loss" in line]
    expected = [json.loads(line)["loss"] for line in whole.metrics_path.read_text().splitlines() if "loss" in line]
    assert losses == expected


class Killed(Exception):
    """An error that no part of a run handles."""


class KillAt(pl.Callback):
    """Ends the run after the save of a step."""

    order = 9

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step >= self.step:
            raise Killed


@pytest.mark.parametrize("every", [1, thorough(3)])
def test_a_run_that_is_killed_after_every_step_ends_with_the_same_weights(start, monkeypatch, every):
    more = ["trainer.accumulate_grad_batches=2", "evaluation=none", "trainer.max_epochs=2",
            "callbacks.checkpoint.every_n_steps=1"]  # fmt: skip
    cfg, dataset, whole = start("whole", *more)
    fit(cfg, dataset, whole)
    cfg, dataset, broken = start("broken", *more)
    real, step = assembly.build_trainer, 0
    while True:
        bomb = KillAt(step + every)
        monkeypatch.setattr(assembly, "build_trainer", lambda node, run, n, calls, *rest, bomb=bomb: real(
            node, run, n, [*calls, bomb], *rest))  # fmt: skip
        try:
            fit(cfg, dataset, broken, checkpoint=broken.saved.path(step) if step else None)
            break
        except Killed:
            step = broken.saved.steps()[-1]
    one, two = (torch.load(run.last_checkpoint, weights_only=True) for run in (whole, broken))
    assert one["global_step"] == two["global_step"] == 8
    assert one["loops"]["fit_loop"]["epoch_progress"] == two["loops"]["fit_loop"]["epoch_progress"]
    assert (
        one["loops"]["fit_loop"]["epoch_loop.batch_progress"] == two["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    )
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])
    lines = [
        [row["step"] for row in map(json.loads, run.metrics_path.open()) if "loss" in row] for run in (whole, broken)
    ]
    assert sorted(set(lines[0])) == sorted(set(lines[1]))


def test_the_seed_determines_the_weights(start):
    runs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cfg, dataset, run = start(name, f"seed={seed}", "evaluation=none", "trainer.max_steps=4")
        fit(cfg, dataset, run)
        runs[name] = weights(run)
    assert all(torch.equal(runs["a"][key], runs["b"][key]) for key in runs["a"])
    assert not all(torch.equal(runs["a"][key], runs["c"][key]) for key in runs["a"])


def test_norms_and_biases_are_not_decayed_and_the_unused_head_is_not_trained(start):
    parts = assemble(*start("groups"))
    parts.trainer.strategy._lightning_module = parts.module
    parts.module._trainer = parts.trainer
    groups = parts.module.configure_optimizers()["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    by_id = {id(p): name for name, p in parts.module.named_parameters()}
    decayed, kept = ([by_id[id(p)] for p in group["params"]] for group in groups)
    assert all(name.endswith("weight") and "LayerNorm" not in name for name in decayed)
    assert all(name.endswith("bias") or "LayerNorm" in name for name in kept)
    assert len(decayed) + len(kept) == len(by_id) - 2  # the pooler's weight and bias


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ([], 21),  # 108 training pairs in batches of 16 are 7 a pass
        (["trainer.max_steps=5"], 5),
        (["trainer.accumulate_grad_batches=2"], 12),  # the last of 7 batches is a step of its own
        thorough(["trainer.max_epochs=null", "trainer.max_steps=30"], 30),
        (["trainer.max_epochs=auto", "trainer.max_steps=30"], 30),
        thorough(["trainer.max_epochs=auto"], 70),  # ten passes at most
        (["trainer.max_epochs=auto", "data.batch_size=4"], 108),  # 27 a pass: four passes reach a hundred
        (["+trainer.limit_train_batches=2"], 6),
    ],
)
def test_total_steps_are_those_that_lightning_runs(start, more, steps):
    cfg, dataset, run = start("steps", *more, "evaluation=none")
    parts = assemble(cfg, dataset, run)
    assert parts.module.total_steps == total_steps(parts.trainer, parts.data.batches_per_epoch) == steps
    parts.trainer.fit(parts.module, datamodule=parts.data)
    assert parts.trainer.global_step == steps


def test_a_non_finite_loss_stops_the_run(start, monkeypatch):
    cfg, dataset, run = start("diverges", "evaluation=none")
    monkeypatch.setattr("finetune.losses.infonce.InfoNCE.forward", lambda self, emb, *_: emb.sum() * float("nan"))
    with pytest.raises(RunError, match="diverged: the loss is nan at step 1"):
        fit(cfg, dataset, run)


class ShortOnce(torch.autograd.Function):
    """Lets memory run out at some backward passes."""

    left: ClassVar[list[int]] = []
    seen = 0

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ShortOnce.seen += 1
        if ShortOnce.seen in ShortOnce.left:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient


@pytest.mark.parametrize("more", [[], ["trainer.accumulate_grad_batches=2"], ["trainer.precision=bf16-mixed"]])
def test_out_of_memory_in_the_backward_pass_repeats_the_step(start, monkeypatch, more):
    weights, passes = [], []
    for fail in ([], [1, 3]):
        cfg, dataset, run = start(
            f"short{len(weights)}", "evaluation=none", "model.dropout=0", "trainer.max_steps=4",
            "engine.token_budget=64", *more,
        )  # fmt: skip
        # The first micro-batch that is encoded is the last whose gradient comes: its graph is whole when it fails.
        monkeypatch.setattr(ShortOnce, "left", fail)
        monkeypatch.setattr(ShortOnce, "seen", 0)
        real = EmbeddingModule.embed
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddingModule, "embed", lambda self, batch, real=real: ShortOnce.apply(real(self, batch)))
            fit(cfg, dataset, run)
        last = torch.load(run.last_checkpoint, weights_only=True)
        assert last["global_step"] == 4
        weights.append(last["state_dict"])
        passes.append(ShortOnce.seen)
        budgets = [row["token_budget"] for row in map(json.loads, run.metrics_path.open()) if "loss" in row]
        assert budgets[-1] == (16 if fail else 64)
    # All batches of the step are computed again: with accumulation, the third pass is that of its second batch.
    assert passes[1] == passes[0] + (3 if "accumulate" in str(more) else 2)
    tolerance = 1e-2 if "bf16" in str(more) else 1e-5
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("activation_mb", [0, thorough(1000)])
def test_every_precision_reduces_the_loss(start, precision, activation_mb):
    cfg, dataset, run = start(
        f"{precision}{activation_mb}", f"trainer.precision={precision}", f"engine.activation_mb={activation_mb}",
        "evaluation=none", "engine.token_budget=40", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=6",
    )  # fmt: skip
    fit(cfg, dataset, run)
    rows = [row for row in map(json.loads, run.metrics_path.open()) if "loss" in row]
    losses = [row["loss"] for row in rows]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all((row["recomputed_share"] > 0) == (activation_mb == 0) for row in rows)


def test_every_logged_row_has_times_and_memory(start):
    cfg, dataset, run = start("pace", "evaluation=none", "trainer.max_steps=3")
    fit(cfg, dataset, run)
    for row in (row for row in map(json.loads, run.metrics_path.open()) if "loss" in row):
        stages = {key.partition("/")[2]: value for key, value in row.items() if key.startswith("seconds/")}
        assert set(stages) == {"data", "encode", "loss", "backward", "optimizer", "callbacks"}
        assert all(value >= 0 for value in stages.values())
        assert row["items_per_second"] == pytest.approx(row["tokens_per_second"] / 5, rel=0.5)
        assert row["peak_memory_mb"] > 100
        assert 0 <= row["repeats_share"] < 1
