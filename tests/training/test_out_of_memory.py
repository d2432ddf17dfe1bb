"""Memory that runs out during a step: at every place, the run continues as if the budget had been smaller, or ends."""

import json
from contextlib import ExitStack

import pytest
import pytorch_lightning as pl
import torch

from finetune import devices
from finetune.errors import MemoryRanOut
from finetune.runs.failure_causes import cause_of
from finetune.training.fit import fit
from tests.conftest import thorough
from tests.fake_device import GB, FakeDevice
from tests.training.test_fit import fit_with, weights

# With dropout. Both budgets are halved when memory runs out, and less than a megabyte is not kept at all.
PLAIN = ["evaluation=none", "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
LARGE, SMALL = (
    ["engine.token_budget=64", "engine.activation_mb=100"],
    ["engine.token_budget=32", "engine.activation_mb=0"],
)


class OnFake(pl.Callback):
    """Computes one batch of a training on a fake device, and notes which allocations are those of a phase."""

    def __init__(self, fake, batch):
        self.fake, self.batch, self.seen, self.stack = fake, batch, -1, ExitStack()
        self.before, self.spans = 0, {}

    def on_train_start(self, trainer, module):
        self.watch(module, "_loss")
        self.watch(module, "_backward_through_graph")

    def watch(self, module, name):
        real = getattr(module, name)

        def watched(*arguments):
            if self.seen != self.batch or name in self.spans:
                return real(*arguments)
            if not self.spans:
                self.fake.start()
            self.spans[name] = self.fake.made, None
            result = real(*arguments)
            self.spans[name] = self.spans[name][0], self.fake.made
            return result

        setattr(module, name, watched)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen += 1
        if self.seen == self.batch:
            self.fake.add(module)
            self.before = self.fake.in_use
            self.stack.enter_context(self.fake)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if self.seen == self.batch:
            self.spans["optimizer"] = self.fake.made, None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.seen == self.batch and "optimizer" in self.spans:
            self.spans["optimizer"] = self.spans["optimizer"][0], self.fake.made
        self.stack.close()

    def on_exception(self, trainer, module, exception):
        self.stack.close()


def trained(start, monkeypatch, name, *more, fake=None, batch=0):
    """Return what a training leaves behind: its weights, rows of metrics, and the callback."""
    spy = OnFake(fake or FakeDevice(), batch)
    cfg, dataset, run = start(name, *PLAIN, *more)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "of", lambda device: spy.fake)
        fit_with(spy, patch, cfg, dataset, run)
    rows = [row for row in map(json.loads, run.metrics_path.open()) if "loss" in row]
    return weights(run), rows, spy


def assert_same(one, two):
    for name in one:
        assert torch.equal(two[name], one[name]), name


def places(span, *shares):
    """Return some allocations of a phase, by their shares of all."""
    first, end = span
    return sorted({int(first + share * (end - 1 - first)) for share in shares})


QUICK, ALL = (0.6,), tuple(number / 40 for number in range(41))


@pytest.mark.parametrize("shares", [QUICK, thorough(ALL)], ids=["some", "all"])
def test_wherever_memory_runs_out_the_step_is_that_of_the_smaller_budget(start, monkeypatch, shares):
    """It is, with its dropout, and so are those after it; and while memory is released nothing of the step is left."""
    _, _, whole = trained(start, monkeypatch, "whole", *LARGE)
    expected, rows, _ = trained(start, monkeypatch, "small", *SMALL)
    spans = [whole.spans[phase] for phase in ("_loss", "_backward_through_graph")]
    for number in (*places(spans[0], *shares), *places(spans[1], *shares)):
        fake = FakeDevice(fail_at=[number])
        found, found_rows, spy = trained(start, monkeypatch, f"at{number}", *LARGE, fake=fake)
        assert_same(expected, found)
        assert [row["loss"] for row in found_rows] == [row["loss"] for row in rows]
        assert {row["token_budget"] for row in found_rows} == {32}
        (released,) = fake.released
        assert released < 2.2 * spy.before  # the weights and at most their gradients
    assert whole.fake.highest > 5 * spy.before


def test_a_failed_backward_pass_repeats_the_earlier_batches_of_the_step(start, monkeypatch):
    """Also where memory runs out again while it repeats, and where the accumulation ends with the epoch."""
    more = ["trainer.accumulate_grad_batches=2", "trainer.max_steps=4"]
    _, _, whole = trained(start, monkeypatch, "whole", *LARGE, *more, batch=1)
    expected, _, _ = trained(start, monkeypatch, "small", "engine.token_budget=16", "engine.activation_mb=0", *more)
    first, end = whole.spans["_backward_through_graph"]
    middle = (first + end) // 2
    fake = FakeDevice(fail_at=[middle, middle + 50])
    found, rows, _ = trained(start, monkeypatch, "again", *LARGE, *more, batch=1, fake=fake)
    assert len(fake.released) == 2
    assert_same(expected, found)
    assert rows[-1]["token_budget"] == 16


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        thorough(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously ...")),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        thorough(MemoryError("std::bad_alloc")),
    ],
    ids=["host", "runtime", "cublas", "c++"],
)
def test_other_errors_of_missing_memory_repeat_the_step_too(start, monkeypatch, error):
    fake = FakeDevice(fail_at=[100], error=lambda: type(error)(*error.args))
    _, rows, _ = trained(start, monkeypatch, "other", *LARGE, fake=fake)
    assert rows[-1]["token_budget"] == 32


def test_another_error_ends_the_run_at_once(start, monkeypatch):
    fake = FakeDevice(fail_at=[100], error=lambda: RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal"):
        trained(start, monkeypatch, "illegal", *LARGE, fake=fake)
    assert not fake.released


def test_a_step_that_fits_in_no_way_ends_the_run_with_advice(start, monkeypatch):
    fake = FakeDevice(fail_at=range(10**6))
    with pytest.raises(MemoryRanOut, match="micro-batches are as small as can be") as raised:
        trained(start, monkeypatch, "full", *LARGE, fake=fake)
    assert "data.max_length" in raised.value.advice
    assert cause_of(raised.value) == "out of memory"


# AdamW allocates its moments in the first step, and without its fused kernel also tensors in every step.
@pytest.mark.parametrize(("batch", "saved"), [(0, []), (2, [1, 2])])
def test_memory_that_runs_out_in_the_optimizer_ends_the_run_and_keeps_the_checkpoint(start, monkeypatch, batch, saved):
    more = [*LARGE, "trainer.max_steps=4", "optimizer.fused=false", "callbacks.checkpoint.every_n_steps=1"]
    expected, _, whole = trained(start, monkeypatch, "whole", *more, batch=batch)
    first, end = whole.spans["optimizer"]
    assert end > first + 10
    cfg, dataset, run = start("broken", *PLAIN, *more)
    spy = OnFake(FakeDevice(fail_at=[(first + end) // 2]), batch)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "of", lambda device: spy.fake)
        with pytest.raises(MemoryRanOut, match=f"in the optimizer, in step {batch + 1}"):
            fit_with(spy, patch, cfg, dataset, run)
    assert run.saved.steps() == saved
    assert not run.model.exists()
    if saved:
        fit(cfg, dataset, run, checkpoint=run.saved.path(saved[-1]))
        assert_same(expected, weights(run))


def test_a_training_on_a_device_that_is_too_small_for_the_settings(start, monkeypatch):
    """Of 1 GB others use nearly all: the budget is halved until the steps fit, and what fits is used."""
    _, _, whole = trained(start, monkeypatch, "whole", *LARGE)
    left = (whole.before + whole.fake.highest) // 2
    fake = FakeDevice(others=GB - left)
    _, rows, _ = trained(start, monkeypatch, "tight", *LARGE, fake=fake)
    assert whole.before < fake.highest <= left < whole.fake.highest
    assert rows[-1]["token_budget"] < 64
