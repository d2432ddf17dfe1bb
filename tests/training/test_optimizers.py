"""Muon with AdamW against the two separately; the choice of weights; checkpoints, schedules, clipping."""

import copy
import io
import json

import pytest
import torch
from torch import nn

from finetune.config.build import build_offered
from finetune.config.check import check
from finetune.training.optimizers import MuonAndAdamW, hidden_weights
from tests.conftest import quick, run_train, write_pairs


class Tiny(nn.Module):
    """A table, two matrices, and vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.up, self.norm, self.down = (
            nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3),
        )  # fmt: skip

    def forward(self, ids):
        return self.down(self.norm(self.up(self.table(ids)))).square().mean()


def groups(model):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make(model, **settings):
    return MuonAndAdamW(groups(model), hidden_weights(model), lr=0.02, adamw_lr=0.01, weight_decay=0.1, **settings)


def go(model, optimizer, steps, schedulers=()):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.arange(7).roll(step)[:4]).backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_hidden_weights_are_the_matrices_between_layers():
    model = Tiny()
    assert [id(weight) for weight in hidden_weights(model)] == [id(model.up.weight), id(model.down.weight)]


def test_equals_muon_and_adamw_separately():
    model = Tiny()
    twin = copy.deepcopy(model)
    optimizer = make(model)
    hidden = hidden_weights(twin)
    vectors = [p for p in twin.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [twin.table.weight]}, {"params": vectors, "weight_decay": 0.0}], 0.01, fused=True
    )
    adamw.param_groups[0]["weight_decay"] = 0.1
    fall = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: 0.9**step) for each in (optimizer, muon, adamw)]
    for _ in range(5):
        go(model, optimizer, 1, fall[:1])
        twin.zero_grad()
        twin(torch.arange(7)[:4]).backward()
        for each, scheduler in zip((muon, adamw), fall[1:], strict=True):
            each.step()
            scheduler.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_loaded_state_continues_identically():
    model = Tiny()
    optimizer = make(model)
    go(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    again = make(twin)
    again.load_state_dict(torch.load(file, weights_only=True))
    again.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = 0.5  # the parts see what a schedule sets
    for one, other in ((model, optimizer), (twin, again)):
        go(one, other, 3)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(again.state) == len(list(twin.parameters()))


def test_a_closure_is_called_once_with_gradients():
    model, calls = Tiny(), []
    before = model.up.weight.detach().clone()

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = model(torch.arange(4))
        loss.backward()
        return loss

    assert make(model).step(closure) > 0
    assert calls == [True]
    assert not torch.equal(model.up.weight, before)


def test_the_learning_rate_of_a_group_applies_to_both():
    model = Tiny()
    given = groups(model)
    given[0]["lr"] = 0.01
    optimizer = MuonAndAdamW(given, hidden_weights(model), lr=0.02, adamw_lr=0.2)
    assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [
        (0.01, 2), (0.02, 0), (0.1, 1), (0.2, 4),
    ]  # fmt: skip


NAMES = ["adam", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "sgd", "adafactor", "muon"]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_optimizer_reduces_the_loss(name):
    model = Tiny()
    node = check([f"optimizer={name}"]).optimizer
    optimizer = build_offered(node, "optimizer", {"hidden": hidden_weights(model)}, params=groups(model))
    before = model(torch.arange(4)).item()
    go(model, optimizer, 40)
    assert model(torch.arange(4)).item() < before
    assert optimizer.defaults["lr"] == node.lr


@pytest.mark.slow
def test_a_killed_run_of_muon_on_a_plateau_ends_with_the_same_weights(tiny_model, tmp_path):
    """By the command line, killed in the middle of an epoch and of a window of the plateau."""
    write_pairs(tmp_path / "pairs.csv")
    asked = [
        "optimizer=muon", "scheduler=plateau", "scheduler.window=3", "scheduler.patience=0", "scheduler.threshold=0.9",
        "scheduler.warmup=0.1", "evaluation=none", "callbacks.checkpoint.every_n_steps=4",
    ]  # fmt: skip
    asked = quick(tiny_model, *asked)
    env = {"FINETUNE_ALLOW": "mine", "PYTHONPATH": str(tmp_path)}
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from pytorch_lightning import Callback\n"
        "class Kill(Callback):\n"
        "    def __init__(self, at: int):\n"
        "        self.at = at\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        if trainer.global_step == self.at and not os.path.exists('killed'):\n"
        "            open('killed', 'w').close()\n"
        "            os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "killed").touch()
    kill = "+callbacks.kill={_target_:mine.Kill,at:18}"
    whole = run_train(*asked, kill, "name=whole", cwd=tmp_path, env=env)
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "killed").unlink()
    assert run_train(*asked, kill, "name=broken", cwd=tmp_path, env=env).returncode == -9
    again = run_train(*asked, kill, "name=broken", cwd=tmp_path, env=env)
    assert again.returncode == 0, again.stderr
    assert "resuming from step 16" in again.stdout
    ours, plain = (tmp_path / f"outputs/default/{name}" for name in ("broken", "whole"))
    ends = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (ours, plain)]
    for name, weight in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][name], weight), name
    assert ends[0]["schedule"] == ends[1]["schedule"]
    rates = [
        [row["learning_rate"] for row in map(json.loads, (run / "metrics.jsonl").open()) if "learning_rate" in row]
        for run in (ours, plain)
    ]
    assert rates[0] == rates[1]
    assert min(rates[0][3:]) < max(rates[0])  # it did fall
