"""After an error a strategy of several processes leaves the model where it is; Lightning would move it to the CPU."""

from datetime import timedelta

import pytest
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from finetune.ranks import RankInfo
from finetune.training.trainer import _strategy


@pytest.mark.parametrize(("name", "base"), [("ddp", DDPStrategy), ("fsdp", ModelParallelStrategy)])
@pytest.mark.parametrize("has_failed", [False, True])
def test_teardown_only_without_an_error(name, base, has_failed, monkeypatch):
    calls = []
    monkeypatch.setattr(base, "teardown", lambda self: calls.append(self))
    strategy = _strategy(name, RankInfo(0, 2, 0, 2, "torchrun"), timedelta(minutes=2))
    if has_failed:
        strategy.on_exception(ValueError("of a step"))
    strategy.teardown()
    assert bool(calls) != has_failed


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_libraries_wait_longer_than_the_run(name):
    """So that the run ends first, and says which process is missing."""
    strategy = _strategy(name, RankInfo(0, 2, 0, 2, "torchrun"), timedelta(minutes=2))
    assert strategy._timeout == timedelta(minutes=3)
