"""However a process of a run ends or hangs, all end within seconds, and the run says which it was and why."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import quick, run_finetune, run_train, thorough, write_project
from tests.runner.test_ranks import ALLOWED, BOOM, asked, living, start, status
from tests.training.test_processes import ip, two_hosts

_PROMISED = 30  # seconds
EVALUATING = ("evaluation", "search")


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("failures"), BOOM)


def fail(tiny_model, cwd, how, when, *more):
    """Run until it fails, and return it with its status; nothing is left of it, and it ended in time."""
    name = f"{how}-{when}"
    if when not in EVALUATING:
        more = (*more, "evaluation=none")
    run = run_train(*asked(tiny_model, name, how, when, *more), cwd=cwd, warm=ALLOWED)
    took = time.time() - (cwd / f"{how}-time").stat().st_mtime
    assert not living(cwd)
    assert took < _PROMISED
    assert run.returncode == 1, run.stderr
    found = status(cwd / "outputs/default" / name)
    assert found["state"] == "failed"
    return run, found


@pytest.mark.parametrize(
    ("how", "when", "reason", "cause"),
    [
        ("crash", "optimizer", "process 1 was killed by SIGSEGV.", "error"),
        thorough("exit", "evaluation", "process 1 ended with exit code 3.", "error"),
        thorough("exit", "search", "process 1 ended with exit code 3.", "error"),
        thorough("killed", "save", "process 1 was killed by SIGKILL.", "killed"),
        thorough("killed", "optimizer", "process 1 was killed by SIGKILL.", "killed"),
    ],
)
def test_a_process_that_ends_without_a_report(tiny_model, cwd, how, when, reason, cause):
    more = () if when not in EVALUATING else ("trainer.max_steps=9", "engine.token_budget=60")
    run, found = fail(tiny_model, cwd, how, when, *more)
    assert (found["reason"], found["cause"]) == (reason, cause)
    assert reason in run.stderr
    words = "the last words"
    if how == "crash":
        words = "Fatal Python error: Segmentation fault"
        assert any("in boom" in line for line in found["output"])
    assert any(words in line for line in found["output"])
    assert words in run.stderr
    shown = run_finetune("runs", "show", f"outputs/default/{how}-{when}", cwd=cwd).stdout
    assert reason in shown and words in shown
    if when != "save":
        assert "resume with:" in shown
        assert list((cwd / f"outputs/default/{how}-{when}/checkpoints").glob("step-*.ckpt"))


@pytest.mark.parametrize(("how", "when"), [("hang", "step"), thorough("frozen", "step"), thorough("hang", "search")])
def test_a_process_that_hangs_is_named_with_where_it_is(tiny_model, cwd, how, when):
    run, found = fail(tiny_model, cwd, how, when, "collective_timeout=0.05")
    assert found["cause"] == "timeout"
    assert found["reason"].startswith(
        "process 1 has not joined the others in a collective operation for 3 seconds; process 1 was last at "
    )
    if how == "hang":  # the other one could not say where it is
        assert "mine.py" in found["reason"] and "(boom)" in found["reason"]
    assert "increase collective_timeout" in run.stderr


@pytest.mark.thorough
def test_an_error_of_nccl_on_one_process_is_explained_and_is_the_reason(tiny_model, cwd):
    run, found = fail(tiny_model, cwd, "nccl", "optimizer")
    assert found["cause"] == "gpu"
    assert found["reason"].startswith("process 1: A GPU has a hardware error: Cuda failure 214")
    assert "nvidia-smi -q" in run.stderr
    assert "Connection closed" not in run.stderr


@pytest.mark.thorough
def test_a_process_that_is_killed_while_it_waits_for_a_slow_one(tiny_model, cwd):
    """The slow one is not in the operation yet, which would end it."""
    name = "barrier"
    run = run_train(*asked(tiny_model, name, "none", "barrier", "evaluation=none"), cwd=cwd, warm=ALLOWED)
    took = time.time() - (cwd / "barrier-time").stat().st_mtime
    assert not living(cwd)
    assert took < _PROMISED
    assert run.returncode == 1
    assert status(cwd / f"outputs/default/{name}")["reason"] == "process 1 was killed by SIGKILL."


@pytest.mark.thorough
def test_the_first_process_is_killed(tiny_model, cwd):
    words = [*asked(tiny_model, "first", "none", "never", "evaluation=none"), "trainer.max_epochs=2000"]
    (first,) = start(cwd, words, ALLOWED)
    before = time.monotonic()
    first.send_signal(signal.SIGABRT)
    first.communicate(timeout=100)
    while living(cwd):
        assert time.monotonic() - before < _PROMISED
        time.sleep(0.1)
    shown = run_finetune("runs", "show", "outputs/default/first", "--json", cwd=cwd).stdout
    assert "killed" in shown
    assert "Fatal Python error: Aborted" in run_finetune("runs", "show", "outputs/default/first", cwd=cwd).stdout
    assert json.loads((cwd / "outputs/default/first/status.json").read_text())["state"] == "running"


@pytest.mark.thorough
def test_a_process_that_needs_long_alone_is_waited_for(tiny_model, cwd):
    """Others wait in a barrier for four seconds, which is less than the time limit."""
    words = asked(tiny_model, "slow", "slow", "barrier", "evaluation=none")
    run = run_train(*words, "collective_timeout=0.2", cwd=cwd, warm=ALLOWED)
    assert run.returncode == 0, run.stderr


@pytest.mark.thorough
@pytest.mark.skipif(os.getuid() != 0, reason="needs two network namespaces, which only root can make")
def test_a_machine_that_is_lost(tiny_model, cwd):
    """Its network goes down: nothing answers, and nothing says so. One process on each machine, as srun starts them."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
    words = [*quick(tiny_model, "name=lost", "trainer=ddp", "evaluation=none"), "trainer.max_epochs=2000"]
    with two_hosts() as (prefixes, address):
        job |= {"MASTER_ADDR": address, "GLOO_SOCKET_IFNAME": "eth0", "HF_HUB_OFFLINE": "1"}
        processes = [
            subprocess.Popen(
                [*prefix, sys.executable, "-m", "finetune.runner", *words], cwd=cwd, text=True,
                env=os.environ | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"}, stderr=subprocess.PIPE,
            )
            for rank, prefix in enumerate(prefixes)
        ]  # fmt: skip
        try:
            metrics, end = cwd / "outputs/default/lost/metrics.jsonl", time.monotonic() + 200
            while not metrics.exists() or metrics.read_text().count("loss") < 3:
                assert time.monotonic() < end
                assert all(process.poll() is None for process in processes)
                time.sleep(0.1)
            before = time.monotonic()
            ip(f"-n {prefixes[1][-1]} link set eth0 down")
            printed = [process.communicate(timeout=100)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert time.monotonic() - before < _PROMISED
    assert [process.returncode for process in processes] == [1, 1]
    reason = "process 1 no longer answers: its machine was lost, or the network to it."
    assert reason in printed[0]
    found = status(cwd / "outputs/default/lost")
    assert (found["state"], found["cause"], found["reason"]) == ("failed", "node lost", reason)
