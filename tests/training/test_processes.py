"""Several processes give the losses, the weights and the evaluations of one process."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.config.check import check
from finetune.data.batching.mixing import BatchSettings, Epochs
from finetune.data.load import load
from finetune.data.settings import data_settings
from tests.conftest import ROOT, WORDS, quick, run_train

# A loss with weights of its own, one of which nothing uses; each source has one, and a batch uses that of its source.
MINE = """
import torch
from torch import nn

class Learnt(nn.Module):
    learns_from = ("pairs",)

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.head, self.idle = nn.Linear(width, width), nn.Parameter(torch.ones(3))

    def forward(self, emb_ND, batch):
        return (self.head(emb_ND[batch.anchor_B]) - emb_ND[batch.positive_B]).square().sum(1).mean()
"""
SOURCES = "data.sources={pairs:{path:pairs.csv},more:{path:more.csv,batch_size:2,loss:{weights:{mine:0.5}}}}"


def write_rows(path):
    """Pairs that repeat texts, with a negative in most rows, and weights."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["anchor", "positive", "negative", "weight"])
        for _ in range(120):
            words = draw.sample(WORDS, 9)
            text = [" ".join(words[:2]), " ".join(words[2 : 3 + draw.randrange(5)]), words[8]]
            out.writerow([*text[:2], text[2] if draw.random() < 0.7 else "", round(draw.uniform(0.1, 2), 2)])


def asked(tiny_model, *more):
    """Return the overrides of a run of micro-batches of a few texts, most of them recomputed, two batches a step."""
    some = [word for word in quick(tiny_model) if not word.startswith(("data.path", "trainer.max_epochs"))]
    return [
        *some, "data=mix", SOURCES, "loss=sum", "+loss.losses.mine={_target_:mine.Learnt}", "+loss.weights.mine=1",
        "model.dropout=0", "trainer.max_steps=6", "trainer.accumulate_grad_batches=2", "engine.token_budget=60",
        "engine.activation_mb=0", "scheduler=plateau", "scheduler.window=2", "scheduler.patience=0",
        "scheduler.threshold=0.9", *more,
    ]  # fmt: skip


ALLOWED = {"FINETUNE_ALLOW": "mine"}


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_rows(folder / "pairs.csv")
    rows = [f"{a} {b},{b}" for a in WORDS[5:10] for b in WORDS[14:20]]
    (folder / "more.csv").write_text("\n".join(["anchor,positive", *rows]))
    (folder / "mine.py").write_text(MINE)
    for devices in (1, 3):
        run = run_train(
            *asked(tiny_model, f"name=run{devices}", f"trainer.devices={devices}"), cwd=folder, warm=ALLOWED
        )
        assert run.returncode == 0, run.stderr
        assert "Warning" not in run.stderr
    return folder / "outputs" / "default"


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_close(one, two):
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5, msg=name)


def test_weights_are_those_of_one_process_including_unused_ones(folder):
    one = weights(folder / "run1")
    assert any("idle" in name for name in one)
    assert_close(one, weights(folder / "run3"))


def test_a_batch_has_fewer_rows_than_processes(folder, tiny_model, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    monkeypatch.syspath_prepend(folder.parents[1])
    monkeypatch.setenv("FINETUNE_ALLOW", "mine")
    cfg = check(asked(tiny_model))
    data = data_settings(cfg)
    epochs = Epochs(load(data, cfg.seed).train, BatchSettings.from_data(data), cfg.seed)
    assert min(len(epochs.batch(0, position)[0]) for position in range(len(epochs))) < 3


def test_losses_and_learning_rates_are_those_of_one_process_and_logged_once(folder):
    for name in ("loss", "learning_rate"):
        one, three = (
            [row[name] for row in map(json.loads, (folder / run / "metrics.jsonl").open()) if name in row]
            for run in ("run1", "run3")
        )
        assert len(three) == len(one)
        assert three == pytest.approx(one, abs=1e-5)
    assert one[-1] < max(one) / 3  # it fell more than once


def test_evaluations_are_those_of_one_process(folder):
    one, three = (json.loads((folder / run / "report.json").read_text())["evaluations"] for run in ("run1", "run3"))
    assert one["retrieval"]["metrics"][0]["before"] > 0
    assert three["retrieval"]["metrics"] == one["retrieval"]["metrics"]


@pytest.mark.slow
def test_a_cross_encoder_with_adapters_has_the_weights_of_one_process(tiny_model, tmp_path):
    words = "model=cross_encoder model.negatives=2 loss=bce evaluation=none tuning=lora"
    write_rows(tmp_path / "pairs.csv")
    found = []
    for devices in (1, 2):
        more = [f"name=run{devices}", f"trainer.devices={devices}", "model.dropout=0", "trainer.max_steps=4"]
        run = run_train(*quick(tiny_model, *words.split(), *more), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        found.append(weights(tmp_path / f"outputs/default/run{devices}"))
    assert any("lora" in name for name in found[0])
    assert_close(*found)


@pytest.mark.thorough
def test_fsdp_resumes_to_the_weights_and_evaluations_of_one_process(tiny_model, tmp_path):
    """From a checkpoint of one process; with evaluations during the training, and the best checkpoint restored."""
    write_rows(tmp_path / "pairs.csv")
    more = [
        "name=one", "model.dropout=0", "trainer.max_steps=6", "trainer.accumulate_grad_batches=2",
        "engine.token_budget=60", "engine.activation_mb=auto", "tuning.layer_decay=0.9",
        "callbacks=[default,evaluate,best]", "callbacks.evaluate.every_n_steps=2",
        "callbacks.checkpoint.every_n_steps=2", "callbacks.checkpoint.keep_last=9",
    ]  # fmt: skip
    run = run_train(*quick(tiny_model, *more), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    one, shared = tmp_path / "outputs/default/one", tmp_path / "outputs/default/shared"
    shutil.copytree(one, shared, symlinks=True)
    status = json.loads((shared / "status.json").read_text())
    (shared / "status.json").write_text(json.dumps(status | {"state": "interrupted"}))
    path = "resume=outputs/default/shared/checkpoints/step-00000002.ckpt"
    run = run_train(path, "trainer=fsdp", "trainer.devices=2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "resuming from step 2" in run.stdout
    assert_close(weights(one), weights(shared))
    before, after = (json.loads((run / "report.json").read_text())["evaluations"] for run in (one, shared))
    assert before["retrieval"]["metrics"] == after["retrieval"]["metrics"]
    assert_close(load_file(one / "model/model.safetensors"), load_file(shared / "model/model.safetensors"))


@contextmanager
def two_hosts():
    """Two connected network namespaces; yields the command prefix for each, and the address of one.

    Raises:
        OSError: this machine does not allow it.
    """
    names = [f"finetune-{os.getpid()}-{i}" for i in (0, 1)]
    with ExitStack() as stack:
        for name in names:
            ip(f"netns add {name}")
            stack.callback(ip, f"netns del {name}")
        ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
        for i, name in enumerate(names):
            for words in (f"addr add 10.1.1.{i + 1}/24 dev eth0", "link set eth0 up", "link set lo up"):
                ip(f"-n {name} {words}")
        yield [["ip", "netns", "exec", name] for name in names], "10.1.1.1"


def ip(words):
    try:
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise OSError(error.stderr.decode()) from error


@pytest.mark.thorough
def test_torchrun_on_two_hosts_gives_the_weights_of_one_process(folder, tiny_model):
    cwd, overrides = folder.parents[1], asked(tiny_model, "trainer=ddp", "experiment=hosts")
    with ExitStack() as stack:
        try:
            starts, address = stack.enter_context(two_hosts())
        except OSError as error:
            pytest.skip(f"needs two network namespaces, which only root can make: {error}")
        torchrun = [Path(sys.executable).with_name("torchrun"), "--nnodes=2", f"--master-addr={address}"]
        hosts = [
            subprocess.Popen(
                [*start, *torchrun, f"--node-rank={rank}", ROOT / "train.py", *overrides],
                cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env=os.environ | ALLOWED | {"HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "eth0"},
            )
            for rank, start in zip(count(), starts)
        ]  # fmt: skip
        said = [host.communicate(timeout=200)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    (run,) = (folder.parent / "hosts").iterdir()  # without a name: the first process made it, and said so to the other
    assert said[0].count("run directory:") == 1
    assert "run directory:" not in said[1]
    assert_close(weights(folder / "run1"), weights(run))
