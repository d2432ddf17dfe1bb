"""Memory that runs out in one of two processes only: neither waits for the other for ever."""

import json
import time

import pytest
import torch

from tests.conftest import quick, run_train, write_project
from tests.runner.test_ranks import living

MINE = """
import torch
from pytorch_lightning import Callback

class Short(Callback):
    "Lets memory run out in one process: for large micro-batches, or in the backward pass of the third step."

    def __init__(self, where: str, rank: int = 1) -> None:
        self.where, self.rank = where, rank

    def on_train_start(self, trainer, module):
        if trainer.global_rank != self.rank:
            return
        real = module.encoder.forward

        def limited(ids, lengths=None, lookup=None):
            if len(ids) > 30:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(ids, lengths, lookup)

        def fail(gradient):
            if trainer.global_step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        if self.where == "forward":
            module.encoder.forward = limited
        else:
            next(weight for weight in module.parameters() if weight.requires_grad).register_hook(fail)
"""


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("short"), MINE)


def run(tiny_model, cwd, name, *more):
    words = ["evaluation=none", "trainer.max_steps=4", "model.dropout=0", "engine.token_budget=64",
             "callbacks.checkpoint.every_n_steps=1", f"name={name}", *more]  # fmt: skip
    started = time.monotonic()
    process = run_train(*quick(tiny_model, *words), cwd=cwd, warm={"FINETUNE_ALLOW": "mine"})
    assert not living(cwd)
    return process, cwd / "outputs/default" / name, time.monotonic() - started


def short(where):
    return ["trainer.devices=2", "+callbacks.short._target_=mine.Short", f"+callbacks.short.where={where}"]


def test_in_the_forward_pass_one_process_repeats_and_the_other_waits(tiny_model, cwd):
    one, plain, _ = run(tiny_model, cwd, "one")
    two, repeats, _ = run(tiny_model, cwd, "two", *short("forward"))
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    expected, found = (torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (plain, repeats))
    assert found["global_step"] == 4
    for name, weight in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.mark.thorough
def test_in_the_backward_pass_all_processes_end_and_the_checkpoint_stays(tiny_model, cwd):
    process, path, seconds = run(tiny_model, cwd, "backward", *short("backward"))
    assert process.returncode == 1
    assert seconds < 60
    assert "process 1: Memory ran out." in process.stderr
    assert "engine.activation_mb" in process.stderr
    assert "Traceback" not in process.stderr
    assert json.loads((path / "status.json").read_text())["cause"] == "out of memory"
    assert torch.load(path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
