"""`kill -9` at random moments, saves among them: the run goes on each time, and ends as one that was never killed.

`make test-kills` kills it 20 times; KILLS=… as often as you like, SEED=… at other moments.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import ROOT, THOROUGH, WORDS, quick, run_train, write_pairs

KILLS = int(os.environ.get("KILLS", "2" if THOROUGH else "1"))
MOMENTS = random.Random(int(os.environ.get("SEED", "0")))

SOURCES = "data.sources={pairs:{path:pairs.csv},more:{path:more.csv,weight:2}}"


def overrides(tiny_model, name):
    """Return those of a run in which all that has a memory takes part: sources, schedule, averages, evaluations."""
    some = [word for word in quick(tiny_model) if not word.startswith(("data.path", "trainer.max_epochs"))]
    return [
        *some, "data=mix", SOURCES, f"trainer.max_epochs={4 * KILLS}", "trainer.accumulate_grad_batches=2",
        "scheduler=plateau", "scheduler.window=3", "scheduler.patience=0", "model.dropout=0.2",
        "callbacks=[default,evaluate,best,average]", "callbacks.checkpoint.every_n_steps=1",
        "callbacks.evaluate.every_n_steps=5", "callbacks.average.save=false", f"name={name}",
    ]  # fmt: skip


@pytest.mark.thorough  # in `make test` a killed run resumes in test_interruptions.py, to the same bits in test_fit.py
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    rows = [f"{a} {b},{b}" for a in WORDS[5:10] for b in WORDS[14:20]]
    (tmp_path / "more.csv").write_text("\n".join(["anchor,positive", *rows]))
    assert run_train(*overrides(tiny_model, "whole"), cwd=tmp_path).returncode == 0
    for killed in range(KILLS):
        assert start_and_kill(overrides(tiny_model, "killed"), tmp_path), f"it ended after {killed} kills"
    last = run_train(*overrides(tiny_model, "killed"), cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert_same(tmp_path / "outputs/default/whole", tmp_path / "outputs/default/killed")


def start_and_kill(words, cwd):
    """Kill a run at a random moment: of its start, of its training, or of a save; False if it ended before."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=cwd, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    checkpoints = cwd / "outputs" / "default" / "killed" / "checkpoints"
    if MOMENTS.random() < 0.25:
        time.sleep(MOMENTS.uniform(0, 5))
    else:
        wait_for_a_save(process, checkpoints, MOMENTS.randint(1, 4))
        time.sleep(MOMENTS.choice([0, MOMENTS.uniform(0, 0.01), MOMENTS.uniform(0, 0.1)]))
    ended = process.poll()
    process.kill()
    out, _ = process.communicate()
    assert ended in (None, 0), out
    return ended is None


def wait_for_a_save(process, checkpoints, count):
    """Return when the `count`-th new file of a save is there, or the process has ended."""
    seen = set()
    while len(seen) < count and process.poll() is None:
        for path in checkpoints.glob(".*.partial"):
            with contextlib.suppress(FileNotFoundError):  # it has got its name since
                seen.add((path.name, path.stat().st_ino))
        time.sleep(0.0005)


def assert_same(whole, killed):
    """Hold two runs against each other: everything in the checkpoints, the model, the lines of the losses."""
    one, two = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed))
    # Lightning counts in its loops how often an epoch was begun, which a kill adds to; the loader's place is ours.
    places = [each.pop("loops")["fit_loop"]["state_dict"]["combined_loader"] for each in (one, two)]
    assert_equal(*places, "place")
    assert_equal(one, two, "checkpoint")
    assert (whole / "model/model.safetensors").read_bytes() == (killed / "model/model.safetensors").read_bytes()
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == sorted(
        p.name for p in (killed / "checkpoints").iterdir()
    )
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (whole, killed)]
    for wanted in ("loss", "retrieval/nDCG@10", "average/retrieval/nDCG@10"):
        one, two = ([(row["step"], row[wanted]) for row in rows if wanted in row] for rows in lines)
        assert one == two, wanted
    assert json.loads((killed / "status.json").read_text())["state"] == "finished"


def assert_equal(one, two, where):
    """Two trees of plain data and tensors are the same, bit by bit; but for what is a time."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one.keys() - {"time_elapsed"}:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal(a, b, f"{where}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    else:
        assert one == two, where
