"""A run of several processes, one of which fails, is killed or stopped: all end, and the true reason is told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, quick, run_train, write_project
from tests.runner.test_kills import assert_same

BOOM = """
import ctypes
import os
import signal
import time
from pathlib import Path
import torch
from pytorch_lightning import Callback
from finetune.encoding import shared_search

NCCL = "NCCL error in: NCCLUtils.hpp:268, unhandled cuda error, NCCL version 2.27.5\\nncclUnhandledCudaError: "
ECC = NCCL + "Call to CUDA function failed.\\nLast error:\\nCuda failure 214 'uncorrectable ECC error encountered'"

class Boom(Callback):
    def __init__(self, how: str, when: str, rank: int = 1) -> None:
        self.how, self.when, self.rank = how, when, rank

    def boom(self, trainer):
        if trainer.global_rank != self.rank or Path(f"{self.when}-mended").exists():
            return
        print("the last words", flush=True)
        Path(f"{self.how}-time").write_text(str(time.time()))
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            os._exit(3)
        if self.how == "crash":
            ctypes.string_at(0)
        if self.how == "hang":
            time.sleep(600)
        if self.how == "frozen":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.how == "nccl":
            raise torch.distributed.DistBackendError(ECC)
        raise MemoryError("Unable to allocate 3 GiB") if self.how == "memory" else ValueError("injected on one rank")

    def on_train_batch_start(self, trainer, module, batch, index):
        if self.when == "step" and trainer.global_step == 9:
            self.boom(trainer)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if self.when == "optimizer" and trainer.global_step == 9:
            self.boom(trainer)
        if self.when == "barrier" and trainer.global_step == 9:
            if trainer.global_rank != self.rank:
                time.sleep(4)  # as long, nothing happens in the other process
            else:
                Path("barrier-time").touch()
                if self.how != "slow" and os.fork() == 0:  # ends it while it waits in the operation below
                    time.sleep(1)
                    os.kill(os.getppid(), signal.SIGKILL)
                    os._exit(0)
            torch.distributed.barrier()

    def on_save_checkpoint(self, trainer, module, checkpoint):
        if self.when == "save":
            self.boom(trainer)

    def on_train_end(self, trainer, module):
        if self.when == "evaluation":
            module.encoder.register_forward_pre_hook(lambda *_: self.boom(trainer))
        if self.when == "search":
            shared_search.QUERIES_AT_ONCE = 1
            if trainer.global_rank == self.rank:
                shared_search.top_k = lambda *_, **__: self.boom(trainer)
"""
ALLOWED = {"FINETUNE_ALLOW": "mine"}


def asked(tiny_model, name, how, when, *more):
    return [
        *quick(tiny_model, f"name={name}", "trainer.devices=2", "model.dropout=0.2"),
        "callbacks.checkpoint.every_n_steps=4", "+callbacks.boom._target_=mine.Boom",
        f"+callbacks.boom.how={how}", f"+callbacks.boom.when={when}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("several"), BOOM)


def status(path):
    return json.loads((path / "status.json").read_text())


def living(cwd):
    """Return the processes that work in a folder."""
    return [process.name for process in Path("/proc").glob("[0-9]*") if place_of(process) == cwd]


def place_of(process):
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None


@pytest.fixture(scope="module")
def killed(tiny_model, cwd):
    """A run whose second process was killed: how it ended, and its folder; from then on none is killed."""
    run = run_train(*asked(tiny_model, "killed", "killed", "step"), cwd=cwd, warm=ALLOWED)
    assert not living(cwd)
    (cwd / "step-mended").touch()
    folder = cwd / "outputs/default"
    shutil.copytree(folder / "killed", folder / "fewer", symlinks=True)
    yield run, folder / "killed"
    (cwd / "step-mended").unlink()


def test_a_process_that_is_killed_ends_the_run_and_is_its_reason(killed):
    run, path = killed
    assert run.returncode == 1
    assert "process 1 was killed by SIGKILL." in run.stderr
    assert "Traceback" not in run.stderr
    (found,) = [status(path.with_name("fewer"))]
    assert (found["state"], found["cause"]) == ("failed", "killed")
    assert found["reason"] == "process 1 was killed by SIGKILL."


@pytest.mark.thorough
def test_gone_on_with_it_ends_with_the_same_bits(killed, tiny_model, cwd):
    _, path = killed
    whole = run_train(*asked(tiny_model, "whole", "killed", "step"), cwd=cwd, warm=ALLOWED)
    assert whole.returncode == 0, whole.stderr
    again = run_train(*asked(tiny_model, "killed", "killed", "step"), cwd=cwd, warm=ALLOWED)
    assert again.returncode == 0, again.stderr
    assert "resuming from step 8" in again.stdout
    assert_same(path.with_name("whole"), path)


def test_it_may_go_on_with_fewer_processes_and_says_what_is_lost(killed, cwd):
    again = run_train("resume=outputs/default/fewer", "trainer.devices=1", cwd=cwd, warm=ALLOWED)
    assert again.returncode == 0, again.stderr
    assert "saved by 2 and resumed by 1 processes: dropout draws other numbers" in again.stdout
    assert status(cwd / "outputs/default/fewer")["step"] == 21


def test_an_error_in_the_share_of_an_evaluation_is_said_with_its_traceback(tiny_model, cwd):
    overrides = asked(tiny_model, "evaluation", "error", "evaluation", "engine.token_budget=60", "trainer.max_steps=2")
    run = run_train(*overrides, cwd=cwd, warm=ALLOWED)
    assert not living(cwd)
    assert run.returncode == 1
    assert run.stderr.count("Traceback") == 1
    assert 'raise MemoryError("Unable to allocate 3 GiB") if' in run.stderr
    assert run.stderr.endswith("process 1: ValueError: injected on one rank\n")
    found = status(cwd / "outputs/default/evaluation")
    assert (found["state"], found["reason"]) == ("failed", "process 1: ValueError: injected on one rank")


@pytest.mark.thorough
def test_memory_that_runs_out_in_one_process_while_all_save(tiny_model, cwd):
    run = run_train(*asked(tiny_model, "save", "memory", "save", "evaluation=none"), cwd=cwd, warm=ALLOWED)
    assert not living(cwd)
    assert run.returncode == 1
    assert "process 1: Memory ran out." in run.stderr
    assert "engine.activation_mb" in run.stderr
    assert "Traceback" not in run.stderr
    assert status(cwd / "outputs/default/save")["cause"] == "out of memory"


def start(cwd, overrides, *environments):
    """Start a process for each environment, and wait until they have made some steps."""
    found = [
        subprocess.Popen(
            [sys.executable, "-m", "finetune.runner", *overrides], cwd=cwd, env=os.environ | more,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for more in environments
    ]  # fmt: skip
    (name,) = [word.partition("=")[2] for word in overrides if word.startswith("name=")]
    metrics, until = cwd / f"outputs/default/{name}/metrics.jsonl", time.monotonic() + 200
    while not metrics.exists() or metrics.read_text().count('"loss"') < 3:
        assert all(process.poll() is None for process in found), [process.communicate() for process in found]
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def long(tiny_model, name):
    return [*quick(tiny_model, f"name={name}", "trainer.devices=2", "evaluation=none"), "trainer.max_epochs=2000"]


def assert_stopped(cwd, name, process, by):
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert f"resume=outputs/default/{name}" in err
    # On a busy machine the other process comes so late that the first one says that it waits for it.
    assert len([line for line in err.splitlines() if not line.startswith("Waiting at")]) == 2
    found = status(cwd / f"outputs/default/{name}")
    assert (found["state"], found["cause"]) == ("interrupted", "stopped")
    assert by in found["reason"]
    assert (cwd / f"outputs/default/{name}/checkpoints/step-{found['step']:08d}.json").exists()


def test_ctrl_c_saves_once_and_ends_all(tiny_model, cwd):
    (process,) = start(cwd, long(tiny_model, "stopped"), {})
    process.send_signal(signal.SIGINT)
    assert_stopped(cwd, "stopped", process, "Ctrl-C")
    assert not living(cwd)


def test_processes_of_srun_meet_and_sigterm_saves_once_and_ends_all(tiny_model, cwd):
    """As `srun --ntasks=2` starts them: no torchrun, no parent of ours, a number for each in the environment."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    tasks = [job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    first, second = start(cwd, long(tiny_model, "slurm"), *tasks)
    for process in (second, first):
        process.send_signal(signal.SIGTERM)
    assert_stopped(cwd, "slurm", first, "SIGTERM")
    assert second.communicate(timeout=100) == ("", "")
    assert not living(cwd)


@pytest.mark.thorough
def test_what_the_first_process_refuses_alone_ends_those_that_wait_for_it(tiny_model, cwd):
    """Only the first one looks at what is not of a run; the others look for it until it is there."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    words = quick(tiny_model, "name=refused", "trainer=ddp", "sweep.parallel=2")
    tasks = [
        subprocess.Popen(
            [sys.executable, ROOT / "train.py", *words],
            cwd=cwd,
            env=os.environ | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        (_, said), (_, other) = (process.communicate(timeout=120) for process in tasks)
    finally:
        for process in tasks:
            process.kill()
    assert tasks[0].returncode == 2 and tasks[1].returncode != 0
    assert "this is an option of a sweep, and this is a single run." in said
    assert "Traceback" not in said + other
    assert not (cwd / "outputs/default/refused").exists()


def test_torchrun_and_a_config_of_another_number_of_devices(tiny_model, cwd):
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node=2", ROOT / "train.py"]
    words = quick(tiny_model, "name=torchrun", "trainer.devices=3")
    run = subprocess.run([*torchrun, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 1  # torchrun's own
    assert run.stderr.count("torchrun started 2 on this machine, and this says 3.") == 1
    assert "Set trainer.devices=2, or set it to auto, as trainer=ddp does." in run.stderr
    assert not (cwd / "outputs/default/torchrun").exists()
