"""Losses and miners of pytorch-metric-learning from the command line: what is refused, and that they train."""

import functools
import json
import re

import pytest
import torch
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.config.check import check
from finetune.config.compose import shipped_folder
from tests.conftest import quick, run_train
from tests.preflight.test_losses import LISTED, tables  # noqa: F401

LIBRARY = "pytorch_metric_learning"
SHIPPED = [
    f"{group}={path.stem}"
    for group in ("loss", "miner")
    for path in sorted((shipped_folder() / group).glob("*.yaml"))
    if LIBRARY in path.read_text(encoding="utf-8") and path.stem != "metric_learning"
]


def test_miners_are_listed_with_a_line_each():
    result = CliRunner().invoke(app, ["miners"])
    assert result.exit_code == 0
    assert {"none", "batch_hard", "multi_similarity"} < set(LISTED.findall(result.output))
    listed = CliRunner().invoke(app, ["losses"]).output
    assert re.search(r"arcface .*\n +learns from a class for each item", listed)
    assert re.search(r"circle .*\n +learns from positive pairs", listed)


@pytest.mark.parametrize("choice", SHIPPED)
def test_every_shipped_config_is_valid(choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check([choice])


@pytest.fixture(scope="module")
def arcface(tables, tiny_model, tmp_path_factory):  # noqa: F811
    """Return a function that makes a short run over classes in some processes, once, and returns its folder."""
    folder = tmp_path_factory.mktemp("arcface")
    more = ["loss=arcface", "loss.lr=0.1", "loss.loss.scale=16", "model.dropout=0", "evaluation=none"]

    @functools.cache
    def run(devices):
        named = [f"data.path={tables / 'labelled.csv'}", f"name=run{devices}", f"trainer.devices={devices}"]
        process = run_train(*quick(tiny_model), *more, *named, "trainer.max_epochs=6", cwd=folder)
        assert process.returncode == 0, process.stderr
        return folder / f"outputs/default/run{devices}"

    return run


def test_a_loss_over_classes_falls(arcface):
    losses = [row["loss"] for row in map(json.loads, (arcface(1) / "metrics.jsonl").open()) if "loss" in row]
    size = len(losses) // 3
    assert sum(losses[-size:]) < 0.9 * sum(losses[:size])


@pytest.mark.thorough
def test_two_processes_give_the_weights_of_one(arcface):
    one, two = (torch.load(arcface(devices) / "checkpoints/last.ckpt", weights_only=True) for devices in (1, 2))
    assert any("losses.0.loss.W" in name for name in one["state_dict"])
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=0, atol=1e-4, msg=name)


REFUSED = [
    ("pairs.csv loss=arcface", r"arcface learns from a class for each item, and these are pairs\.\n.*infonce"),
    ("pairs.csv loss=sum loss@loss.losses.main=proxy_nca", r"loss\.losses\.main\n.*a class for each item"),
    ("pairs.csv loss=margin +loss.loss.num_classes=3", r"a class for each item"),
    ("scored.csv loss=circle", r"data\.min_score\n"),
    ("labelled.csv loss=arcface +loss.loss.num_classes=2", r"the data has 6 classes, more than 2"),
    ("labelled.csv loss=arcface +loss.loss.embedding_size=8", r"have a width of 32, not 8"),
    (
        "labelled.csv loss=matryoshka loss@loss.loss=arcface loss.dimensions=[32,8]",
        r"width 32, and the embeddings have 8",
    ),
    ("pairs.csv loss=circle loss.memory=99", r"loss\.memory\n.*compared by their class"),
    ("labelled.csv loss=circle loss.memory=9", r"a batch can have 16 items, more than 9"),
    ("pairs.csv miner=batch_hard", r"miner\n.*loss=infonce is not one of them"),
    ("pairs.csv loss=vicreg miner=batch_hard", r"miner\n.*VICRegLoss uses the whole batch"),
    (
        "labelled.csv loss=circle miner=batch_easy_hard miner.pos_strategy=semihard",
        r"miner\n.*refuses its arguments: ValueError: pos_strategy and neg_strategy cannot both",
    ),
    ("pairs.csv loss=metric_learning", r"^1 problem.*\n\nloss\.loss\._target_\n.*no value yet"),
]


@pytest.mark.parametrize(("words", "answer"), REFUSED)
def test_what_does_not_fit_is_refused(words, answer, tables, tiny_model, tmp_path):  # noqa: F811
    path, *more = words.split()
    process = run_train(*quick(tiny_model), f"data.path={tables / path}", *more, cwd=tmp_path)
    assert process.returncode == 2
    assert re.search(answer, process.stderr, re.M), process.stderr
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.glob("outputs/default/*"))


def test_a_memory_over_chains_of_pairs(tables, tiny_model, tmp_path):  # noqa: F811
    asked = [
        *quick(tiny_model),
        f"data.path={tables / 'pairs.csv'}",
        "loss=ntxent",
        "loss.memory=64",
        "evaluation=none",
    ]
    process = run_train(*asked, "data.transitive=true", "name=run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
