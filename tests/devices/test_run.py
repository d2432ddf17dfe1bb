"""A whole run on the device: training steps that do not wait, evaluation, checkpoints, and a resume."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from finetune.errors import Interrupted
from finetune.training import assembly
from finetune.training.fit import fit
from tests.conftest import thorough
from tests.devices.fake_cuda import CudaTensor, FakeCuda, Sync
from tests.models.tiny import tiny

# In a step that is not logged.
IN_STEP = {
    Sync("_local_scalar_dense", "training/callbacks/progress:on_train_batch_end"): "the bar's loss, every 0.25 s",
}
IN_STEP_FP16 = {
    Sync("_local_scalar_dense", "training/module:optimizer_step"): "whether fp16 gradients have overflowed",
}
IN_LOGGED_STEP = {
    Sync("tolist", "training/non_finite_loss:check"): "the loss, for the logger",
    Sync("synchronize", "devices:synchronize"): "the seconds of each stage, for the logger",
}
# Outside of steps.
IN_RUN = {
    "training/evaluation_runner:_to_eval_mode": "the model is moved to the device",
    "encoding/embedder:_embed_share": "embeddings are collected on the CPU, once per micro-batch",
    "evaluation/search:top_k": "queries to the device, hits to the CPU",
    "evaluation/search:_search": "the corpus to the device, block by block",
    "evaluation/search:_best_of_block": "whether a query has a tie at the cut-off",
    "training/checkpoint_io:save": "a checkpoint",
    "training/outputs:save_model": "the model",
    "training/fit:_train": "Lightning: lengths of loaders, and the weights that are moved to the CPU at the end",
}


class Spy(pl.Callback):
    """Marks where steps begin and end among the synchronizations, and where the optimizer's state is."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.states: list[Any] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        for state in trainer.optimizers[0].state.values():
            self.states += [value for value in state.values() if isinstance(value, torch.Tensor) and value.ndim]
        if FakeCuda._current is not None:
            self.starts.append(len(FakeCuda.current().syncs))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.stop_at:
            next(c for c in trainer.callbacks if type(c).__name__ == "StopOnSignal").stopped_by = "Ctrl-C"


def run(started: Any, monkeypatch: Any, spy: Spy, accelerator: str, checkpoint: Any = None) -> list[Sync]:
    """Do a run on the CPU, or on the device, with a callback; return its synchronizations."""
    cfg, dataset, directory = started
    real = assembly.build_trainer
    cfg.trainer.accelerator = accelerator
    with monkeypatch.context() as patch:
        patch.setattr(
            assembly, "build_trainer", lambda node, run, n, calls, *rest: real(node, run, n, [spy, *calls], *rest)
        )
        if accelerator == "cpu":
            fit(cfg, dataset, directory, checkpoint)
            return []
        with FakeCuda.active() as cuda:
            fit(cfg, dataset, directory, checkpoint)
        return cuda.syncs


def losses(started: Any) -> list[float]:
    rows = map(json.loads, started[2].metrics_path.read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


NO_EXTRAS = ["evaluation=none", "trainer.max_steps=4", "trainer.max_epochs=null"]


@pytest.mark.parametrize(
    ("kind", "precision", "more"),
    [
        ("bert", "32-true", ["trainer.accumulate_grad_batches=2"]),
        ("bert", "bf16-mixed", ["callbacks=average"]),
        ("mpnet", "16-mixed", []),
        thorough("mpnet", "bf16-mixed", ["trainer.accumulate_grad_batches=2"]),
        thorough("bert", "bf16-true", []),
        thorough("bert", "16-mixed", ["engine.activation_mb=0"]),
        thorough("bert", "bf16-mixed", ["tuning=lora", "loss=siglip"]),
    ],
)
def test_a_step_does_not_wait(start, monkeypatch, tmp_path, kind, precision, more):
    spy = Spy()
    model = f"model.name={tiny(kind, tmp_path / kind)}"
    started = start("x", model, *NO_EXTRAS, f"trainer.precision={precision}", "trainer.log_every_n_steps=100", *more)
    syncs = run(started, monkeypatch, spy, "gpu")
    # From the start of the second batch, as the first step makes states, to that of the last one, which is logged.
    in_steps = set(syncs[spy.starts[1] : spy.starts[-1]])
    allowed = IN_STEP | (IN_STEP_FP16 if precision == "16-mixed" else {})
    assert in_steps <= allowed.keys()
    assert len(spy.starts) >= 4


def test_a_run_has_the_numbers_of_the_cpu(start, monkeypatch):
    more = ["trainer.max_steps=3", "trainer.max_epochs=null", "model.dropout=0"]
    cpu, cuda = start("cpu", *more), start("cuda", *more)
    run(cpu, monkeypatch, Spy(), "cpu")
    spy = Spy()
    syncs = run(cuda, monkeypatch, spy, "gpu")
    assert losses(cuda) == pytest.approx(losses(cpu), rel=1e-4)
    results = [json.loads((each[2].path / "report.json").read_text())["evaluations"] for each in (cpu, cuda)]
    assert len(_numbers(results[0])) > 10
    assert _numbers(results[1]) == pytest.approx(_numbers(results[0]), abs=1e-4)
    in_steps = set(syncs[spy.starts[1] : spy.starts[-1]])
    assert {sync for sync in in_steps if sync.where not in IN_RUN} <= IN_LOGGED_STEP.keys() | IN_STEP.keys()
    others = {sync for sync in syncs if sync not in IN_STEP and sync not in IN_LOGGED_STEP}
    assert {sync.where for sync in others} <= IN_RUN.keys()


def _numbers(node: Any, key: str = "") -> dict[str, float]:
    """Return the metrics of a result."""
    if isinstance(node, list):
        node = {str(i): each for i, each in enumerate(node)}
    if isinstance(node, dict):
        return {name: value for inner, each in node.items() for name, value in _numbers(each, f"{key}/{inner}").items()}
    return {key: node} if isinstance(node, float) and "seconds" not in key else {}


@pytest.mark.parametrize("first", ["cpu", "gpu"])
def test_a_resumed_run_has_its_optimizer_on_the_device(start, monkeypatch, first):
    more = ["evaluation=none", "trainer.max_steps=4", "trainer.max_epochs=null", "model.dropout=0"]
    whole, broken = start("whole", *more), start("broken", *more)
    run(whole, monkeypatch, Spy(), "cpu")
    with pytest.raises(Interrupted):
        run(broken, monkeypatch, Spy(stop_at=2), first)
    spy = Spy()
    run(broken, monkeypatch, spy, "gpu", broken[2].checkpoints / "last.ckpt")
    assert len(spy.starts) == 2
    assert spy.states and all(isinstance(state, CudaTensor) for state in spy.states)
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-4)
