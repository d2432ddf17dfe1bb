"""Ctrl-C, kill and a full disk: the status says so, the checkpoint is whole, and the run can go on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import ROOT, can_mount, quick, run_train, write_pairs

STEPS = 140


@pytest.fixture
def started(tiny_model, tmp_path):
    """Start a run of some seconds, and wait until it has made some steps."""
    write_pairs(tmp_path / "pairs.csv")
    overrides = [*quick(tiny_model, "name=run", "callbacks.checkpoint.every_n_steps=4"), "trainer.max_epochs=20"]
    path = tmp_path / "outputs" / "default" / "run"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while steps_of(path) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process, path, overrides
    process.kill()
    process.wait()


def steps_of(path):
    try:
        return (path / "metrics.jsonl").read_text().count('"loss"')
    except FileNotFoundError:
        return 0


def status(path):
    return json.loads((path / "status.json").read_text())


def last_step(path):
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_saves_and_resume_goes_on_to_the_end(started, tmp_path, number, name):
    process, path, _ = started
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"resume={path.relative_to(tmp_path)}" in err
    assert status(path)["state"] == "interrupted"
    assert name in status(path)["reason"]
    assert 5 <= last_step(path) < STEPS
    path = path.rename(path.with_name("it's renamed"))
    again = run_train(f'resume="{path.relative_to(tmp_path)}"', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    assert status(path)["state"] == "finished"
    assert last_step(path) == STEPS
    losses = [row["step"] for row in map(json.loads, (path / "metrics.jsonl").open()) if "loss" in row]
    assert losses == list(range(1, STEPS + 1))


def test_a_killed_run_goes_on_under_its_name(started, tmp_path):
    process, path, overrides = started
    process.kill()
    process.wait()
    before = last_step(path)
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    assert status(path)["state"] == "finished"
    assert before < last_step(path) == STEPS
    assert [row["step"] for row in map(json.loads, (path / "metrics.jsonl").open()) if "loss" in row] == [
        *range(1, STEPS + 1)
    ]


def test_a_damaged_checkpoint_is_one_sentence(started, tmp_path):
    process, path, overrides = started
    process.kill()
    process.wait()
    (path / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 2
    assert "last.ckpt is damaged" in again.stderr
    assert "Traceback" not in again.stderr
    assert path.is_dir()
    (path / "config.yaml").write_text("{ damaged")
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 2
    assert "config.yaml cannot be read" in again.stderr


def test_another_config_or_resume_never_is_refused(started, tmp_path):
    process, _, overrides = started
    process.kill()
    process.wait()
    other = run_train(*overrides, "optimizer.lr=2e-3", cwd=tmp_path)
    assert other.returncode == 2
    assert "optimizer.lr was 0.001, now 0.002" in other.stderr
    never = run_train(*overrides, "resume=never", cwd=tmp_path)
    assert never.returncode == 2
    assert "resume=never" in never.stderr


def test_two_processes_cannot_have_the_same_run(started, tmp_path):
    _, path, overrides = started
    second = run_train(*overrides, cwd=tmp_path)
    assert second.returncode == 1
    assert "is in use by" in second.stderr
    assert "Traceback" not in second.stderr
    assert status(path)["state"] == "running"


def test_a_folder_that_is_no_run_is_not_touched(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    precious = tmp_path / "outputs" / "default" / "photos"
    precious.mkdir(parents=True)
    (precious / "holiday.jpg").write_text("")
    answer = run_train(*quick(tiny_model, "name=photos"), cwd=tmp_path)
    assert answer.returncode == 2
    assert "was not touched" in answer.stderr
    assert [path.name for path in precious.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("path", ["nowhere", "outputs/default/nothing"])
def test_resume_of_nothing(tmp_path, path):
    answer = run_train(f"resume={path}", cwd=tmp_path)
    assert answer.returncode == 2
    assert "there is no run" in answer.stderr


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize(
    ("kilobytes", "epochs", "doing"), [(600, 3, "save the checkpoint"), (420, 1, "save the model")]
)
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tiny_model, tmp_path, kilobytes, epochs, doing):
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "small").mkdir()
    overrides = quick(tiny_model, "name=run", "output_root=small", "evaluation=none", f"trainer.max_epochs={epochs}")
    script = (
        f"mount -t tmpfs -o size={kilobytes}k tmpfs small && {{ "
        + " ".join(f"'{word}'" for word in [sys.executable, str(ROOT / "train.py"), *overrides])
        + '; code=$?; cp -r small kept; exit "$code"; }'
    )
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    kept = tmp_path / "kept" / "default" / "run"
    sizes = {path.name: path.stat().st_size for path in kept.rglob("*") if path.is_file()}
    assert run.returncode == 1, (run.stdout, run.stderr, sizes)
    assert "the disk is full" in run.stderr
    assert doing in run.stderr
    assert "Traceback" not in run.stderr
    assert status(kept)["state"] == "failed"
    assert "the disk is full" in status(kept)["reason"]
    assert last_step(kept) == 7
    assert not list(kept.rglob("*.partial"))
    assert not (kept / "model").exists()
