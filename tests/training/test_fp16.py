"""Training in fp16, whose gradients are scaled: Lightning's plugin for it on a CPU, with torch's scaler for a CPU."""

import contextlib
import json
import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from finetune import devices
from finetune.training import assembly
from finetune.training.fit import fit
from tests.fake_device import FakeDevice
from tests.training.test_out_of_memory import LARGE, SMALL, OnFake, assert_same

PLAIN = ["evaluation=none", "trainer.max_steps=3", "trainer.log_every_n_steps=1", "model.dropout=0"]
SCALE = 1024.0


class Fp16(MixedPrecision):
    """Lightning chooses it for a GPU only. Without `autocast` all is computed in fp32, and only the scaler is left."""

    def __init__(self, autocast):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=SCALE))
        self.autocast = autocast

    def autocast_context_manager(self):
        return super().autocast_context_manager() if self.autocast else contextlib.nullcontext()


class Gradients(pl.Callback):
    """Records the gradients that reach the optimizer and the rates; makes those of some steps infinite."""

    def __init__(self, infinite=()):
        self.infinite, self.gradients, self.rates, self.weights, self.scales, self.module = (
            infinite,
            [],
            [],
            [],
            [],
            None,
        )

    def on_after_backward(self, trainer, module):
        if trainer.global_step in self.infinite and (trainer.fit_loop._should_accumulate() is False):
            next(p for p in module.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.module = module
        self.weights.append([p.detach().clone() for p in module.parameters()])
        if trainer.precision_plugin.state_dict():
            self.scales.append(trainer.precision_plugin.scaler.get_scale())


def trained(start, monkeypatch, name, *more, plugin=None, spies=()):
    """Return the directory of a training, in fp32 without a plugin."""
    cfg, dataset, run = start(name, *PLAIN, *more)
    real = assembly.build_trainer

    def build(node, run, batches, callbacks, loggers, *rest):
        trainer = real(node, run, batches, [*spies, *callbacks], loggers)
        if plugin is not None:
            trainer.strategy.precision_plugin = plugin
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "build_trainer", build)
        fit(cfg, dataset, run)
    return run


@pytest.mark.parametrize("clip", [0.5, None])
@pytest.mark.parametrize("more", [["engine.activation_mb=0"], ["trainer.accumulate_grad_batches=2"]], ids=str)
def test_scaled_gradients_are_those_of_fp32(start, monkeypatch, clip, more):
    """Bit by bit, since the scale is a power of two; clipping too sees them without the scale."""
    found = []
    for plugin in (None, Fp16(autocast=False)):
        spy = Gradients()
        more = [*more, "engine.token_budget=64", f"trainer.gradient_clip_val={clip or 'null'}", "optimizer.fused=false"]
        trained(start, monkeypatch, f"run{len(found)}", *more, plugin=plugin, spies=[spy])
        found.append(spy)
    plain, scaled = found
    assert scaled.scales[-1] == SCALE
    assert len(plain.gradients) == 3
    for one, two in zip(plain.gradients, scaled.gradients, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.weights[-1], scaled.weights[-1], strict=True))


def test_gradients_in_fp16_are_nearly_those_of_fp32(start, monkeypatch):
    found = []
    for plugin in (None, Fp16(autocast=True)):
        spy = Gradients()
        trained(start, monkeypatch, f"run{len(found)}", "trainer.max_steps=1", plugin=plugin, spies=[spy])
        found.append(torch.cat([gradient.flatten() for gradient in spy.gradients[0]]))
    plain, half = found
    assert not torch.equal(plain, half)
    assert (plain - half).norm() < 0.02 * plain.norm()


def test_a_skipped_step_counts_as_a_step_without_an_update(start, monkeypatch, recwarn):
    """The schedule and the number of steps follow the batches, so that the run ends as planned; the report says so."""
    plain, spy = Gradients(), Gradients(infinite=[0, 2])
    more = ["trainer.max_steps=5", "scheduler=linear"]
    trained(start, monkeypatch, "plain", *more, spies=[plain])
    run = trained(start, monkeypatch, "skips", *more, plugin=Fp16(autocast=False), spies=[spy])
    unchanged = [
        all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        for one, two in zip(spy.weights, spy.weights[1:], strict=False)
    ]
    assert unchanged == [False, True, False, False]
    assert spy.scales == [SCALE / 2, SCALE / 2, SCALE / 4, SCALE / 4, SCALE / 4]
    assert spy.rates == plain.rates
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    assert checkpoint["global_step"] == 5
    assert checkpoint["MixedPrecision" if "MixedPrecision" in checkpoint else "Fp16"]["scale"] == SCALE / 4
    rows = [row for row in map(json.loads, run.metrics_path.open()) if "loss" in row]
    assert len(rows) == 5
    cost = json.loads((run.path / "report.json").read_text())["cost"]
    assert (cost["optimizer_steps"], cost["skipped_steps"]) == (5, 2)
    assert "steps without an update (fp16)" in (run.path / "report.html").read_text()
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


def test_a_repeated_step_has_the_same_scale(start, monkeypatch):
    plugin = {name: Fp16(autocast=False) for name in ("small", "fails")}
    small = trained(start, monkeypatch, "small", *SMALL, plugin=plugin["small"])
    spy = OnFake(FakeDevice(fail_at=[500]), 0)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "of", lambda device: spy.fake)
        fails = trained(start, patch, "fails", *LARGE, plugin=plugin["fails"], spies=[spy])
    first, _ = spy.spans["_backward_through_graph"]
    assert first < 500
    assert len(spy.fake.released) == 1
    one, two = (torch.load(run.last_checkpoint, weights_only=True) for run in (small, fails))
    assert_same(one["state_dict"], two["state_dict"])
