"""Sweeps through the front door: a fresh process and a directory for every trial."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, quick, run_train, write_pairs

BOOM = """
import time
from pathlib import Path
from pytorch_lightning import Callback

class Boom(Callback):
    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_rank == self.rank and trainer.global_step == 3 and not Path("mended").exists():
            Path("failed_at").write_text(str(time.time()))
            raise ValueError("injected on one rank")
"""


def swept(tiny_model, *more):
    return [*(text for text in quick(tiny_model) if not text.startswith("optimizer.lr")), *more]


def statuses(folder):
    return {path.parent: json.loads(path.read_text()) for path in sorted(folder.glob("*/status.json"))}


def test_trials_run_on_their_own_and_are_ranked_and_a_larger_grid_runs_only_what_is_new(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    overrides = swept(tiny_model, "trainer.max_steps=7", "sweep.metric=loss")
    sweep = run_train("-m", *overrides, "optimizer.lr=1e-6,1e-3", cwd=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    first = statuses(tmp_path / "outputs/default")
    assert [trial["state"] for trial in first.values()] == ["finished", "finished"]
    assert len({trial["pid"] for trial in first.values()}) == 2
    ranked = sweep.stdout.split("the trials, best first")[1].split()
    # Of a loss, less is better.
    assert ranked.index("optimizer.lr=0.001") < ranked.index("optimizer.lr=1e-06")
    # Each path stands whole on a line of its own, however long it is.
    assert {str(path.relative_to(tmp_path)) for path in first} <= set(ranked)

    again = run_train("-m", *overrides, "optimizer.lr=1e-6,1e-3,1e-4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    second = statuses(tmp_path / "outputs/default")
    assert len(second) == 3
    assert {path: second[path] for path in first} == first
    assert again.stdout.count("finished already") == 2
    written = json.loads((tmp_path / "outputs/default/sweep.json").read_text())
    assert [trial["overrides"] for trial in written["points"]] == [
        ["optimizer.lr=0.001"],
        ["optimizer.lr=0.0001"],
        ["optimizer.lr=1e-06"],
    ]
    assert written["waiting"] == 0
    assert [row.split("|")[3].strip() for row in markdown_rows(tmp_path)] == [
        trial["overrides"][0] for trial in written["points"]
    ]


def markdown_rows(tmp_path):
    lines = (tmp_path / "outputs/default/sweep.md").read_text().splitlines()
    return [line for line in lines if line.startswith("|")][2:]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["scheduler=glob(*,exclude=[c*,p*])", "check=true"], "trials are fine"),
        (["scheduler=glob(*,exclude=[c*,i*,p*,w*])", "check=true"], "The one trial is fine"),
        (["scheduler=glob(x*)"], "no option fits.\n    There are: constant, cosine, "),
        (["optimizer.lr=glob(*)"], "there is no group 'optimizer.lr'"),
        (["optimizer.lr=interval(1e-5,1e-4)"], "add hydra/sweeper=optuna"),
        (["seed=range(3,3)"], "no value at all"),
        (["seed=1,2", "resume=outputs/default/one"], "consists of several runs"),
        (["seed=1,2", "sweep.parallel=1,2"], "cannot vary"),
        (["seed=1,2", "sweep.parallel=0"], "of at least 1"),
        (["seed=1,2", "sweep.direction=up"], "'auto', 'maximize' or 'minimize'"),
        (["seed=1,2", "hydra/launcher=basic", "check=true"], "2 trials are fine"),  # Hydra's own name for: here
        (["seed=1,2", "hydra/launcher=joblib"], "hydra/launcher=joblib"),
        (["name=one", "optimizer.lr=1e-5,1e-4"], "all trials would have the same name"),
        (["name=one,two", "optimizer.lr=1e-5,1e-4"], "2 trials would have the same name"),
        (["optimizer.lrr=1e-5,1e-4"], "optimizer.lr"),
        (["loss.temperature=0.1,0"], "above 0"),
        (["loss=infonce,cosent"], "cosent"),  # which learns from scores, and the data has none
    ],
)
def test_an_impossible_sweep_is_refused_before_anything_starts(tmp_path, overrides, words):
    sweep = run_train("-m", *overrides, cwd=tmp_path)
    assert words in sweep.stdout + sweep.stderr
    assert sweep.returncode == (0 if "check=true" in overrides else 2)
    assert "Traceback" not in sweep.stderr
    assert not list(tmp_path.iterdir())


def test_options_of_a_sweep_are_refused_in_a_single_run(tmp_path):
    run = run_train("sweep.parallel=2", "hydra/sweeper=optuna", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.count("add -m") == 2


def test_a_failing_trial_is_reported_the_others_continue_and_once_fixed_it_alone_is_run(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "mine.py").write_text(BOOM)
    trial = ["+callbacks.boom._target_=mine.Boom", "+callbacks.boom.rank=0,1"]  # there is no process 1
    overrides = swept(tiny_model, "optimizer.lr=1e-3", "evaluation=none", "sweep.metric=nDCG@10", *trial)
    sweep = run_train("-m", *overrides, cwd=tmp_path, warm={"FINETUNE_ALLOW": "mine"})
    assert sweep.returncode == 1
    said = sweep.stdout.split("the trials, best first")[0]
    # At once, not at the end.
    assert said.index("failed: ValueError: injected on one rank") < said.index("finished, without nDCG@10")
    written = json.loads((tmp_path / "outputs/default/sweep.json").read_text())
    assert [(each["state"], each["reason"]) for each in written["points"]] == [
        ("finished", ""),
        ("failed", "ValueError: injected on one rank"),
    ]
    (tmp_path / "mended").touch()
    again = run_train("-m", *overrides, cwd=tmp_path, warm={"FINETUNE_ALLOW": "mine"})
    assert again.returncode == 0, again.stderr
    assert f"{written['points'][0]['run']}: finished already" in again.stdout
    assert again.stdout.count("run directory:") == 1


@pytest.mark.thorough
def test_the_failure_of_one_process_of_a_trial_ends_it_and_is_its_reason(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "mine.py").write_text(BOOM)
    overrides = swept(tiny_model, "trainer.devices=2", "evaluation=none", "+callbacks.boom._target_=mine.Boom")
    sweep = run_train("-m", *overrides, "optimizer.lr=1e-3", cwd=tmp_path, warm={"FINETUNE_ALLOW": "mine"})
    assert sweep.returncode == 1
    assert time.time() - float((tmp_path / "failed_at").read_text()) < 30
    ((path, status),) = statuses(tmp_path / "outputs/default").items()
    assert status["state"] == "failed"
    assert status["reason"] == "process 1: ValueError: injected on one rank"
    assert f"trial {path.name}: failed: {status['reason']}" in sweep.stdout
    assert not [process for process in Path("/proc").glob("[0-9]*") if str(path) in command_of(process)]


def command_of(process):
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
@pytest.mark.slow
def test_trials_at_once_have_cores_of_their_own_and_resume_after_ctrl_c(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    overrides = swept(tiny_model, "trainer.max_epochs=40", "evaluation=none", "sweep.parallel=2", "sweep.metric=loss")
    overrides = [text for text in overrides if text != "trainer.max_epochs=3"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, "optimizer.lr=1e-6,1e-3"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as sweep:
        two = wait_for_two_trials(sweep, tmp_path / "outputs/default")
        cores = [os.sched_getaffinity(trial["pid"]) for trial in two.values()]
        assert not cores[0] & cores[1]
        threads = [
            Path(f"/proc/{trial['pid']}/environ").read_text().split("OMP_NUM_THREADS=")[1] for trial in two.values()
        ]
        assert [int(text.split("\0")[0]) for text in threads] == [len(each) for each in cores]
        sweep.send_signal(signal.SIGINT)
        _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert "The same command resumes it" in err
    assert "Traceback" not in err
    stopped = statuses(tmp_path / "outputs/default")
    assert {trial["state"] for trial in stopped.values()} == {"interrupted"}

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("(resumes)") == 2
    done = statuses(tmp_path / "outputs/default")
    assert [trial["state"] for trial in done.values()] == ["finished"] * 2
    assert set(stopped) == set(done)
    assert all("resuming from step" in (path / "run.log").read_text() for path in stopped)


def wait_for_two_trials(sweep, folder):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/metrics.jsonl"))) < 2:
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return statuses(folder)
