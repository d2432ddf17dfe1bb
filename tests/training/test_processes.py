"""Two processes give the gradients, and so the weights, of one."""

import json

import pytest
import torch

from tests.conftest import quick, run_train, write_pairs


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_pairs(folder / "pairs.csv")
    for devices in (1, 2):
        more = [f"name=run{devices}", f"trainer.devices={devices}", "model.dropout=0", "trainer.max_steps=9"]
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


def test_losses_are_those_of_one_process_and_written_once(folder):
    one, two = (
        [row["loss"] for row in map(json.loads, (folder / name / "metrics.jsonl").open()) if "loss" in row]
        for name in ("run1", "run2")
    )
    assert len(two) == 9
    assert two == pytest.approx(one, abs=1e-5)
