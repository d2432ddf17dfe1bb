"""Two processes, each scoring its own rows, give the losses and the weights of one."""

import csv
import json
import random

import pytest
import torch

from tests.conftest import WORDS, quick, run_train


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


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_rows(folder / "pairs.csv")
    for devices in (1, 2):
        # Micro-batches of a few texts, most of them recomputed, two batches a step.
        more = [
            f"name=run{devices}", f"trainer.devices={devices}", "model.dropout=0", "trainer.max_steps=6",
            "trainer.accumulate_grad_batches=2", "engine.token_budget=60", "engine.activation_mb=0",
            "scheduler=plateau", "scheduler.window=2", "scheduler.patience=0", "scheduler.threshold=0.9",
        ]  # fmt: skip
        run = run_train(*quick(tiny_model, *more), cwd=folder)
        assert run.returncode == 0, run.stderr
    return folder / "outputs" / "default"


def test_weights_are_those_of_one_process(folder):
    one, two = (
        torch.load(folder / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("run1", "run2")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5, msg=name)


def test_losses_and_rates_are_those_of_one_process_and_written_once(folder):
    for name in ("loss", "learning_rate"):
        one, two = (
            [row[name] for row in map(json.loads, (folder / run / "metrics.jsonl").open()) if name in row]
            for run in ("run1", "run2")
        )
        assert len(two) == len(one)
        assert two == pytest.approx(one, abs=1e-5)
    assert one[-1] < max(one) / 3  # it fell more than once


def test_scores_of_pairs_and_adapters_too(tiny_model, tmp_path):
    asked = "model=cross_encoder model.negatives=2 loss=bce evaluation=none tuning=lora"
    write_rows(tmp_path / "pairs.csv")
    found = []
    for devices in (1, 2):
        more = [f"name=run{devices}", f"trainer.devices={devices}", "model.dropout=0", "trainer.max_steps=4"]
        run = run_train(*quick(tiny_model, *asked.split(), *more), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        path = tmp_path / f"outputs/default/run{devices}/checkpoints/last.ckpt"
        found.append(torch.load(path, weights_only=True)["state_dict"])
    one, two = found
    assert any("lora" in name for name in one)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5, msg=name)
