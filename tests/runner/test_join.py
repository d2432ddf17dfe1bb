"""Processes of a run that wait for each other print it, handle signals and time out; a single process does not wait."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from finetune import ranks, wait_notice
from finetune.encoding import collectives
from finetune.errors import RunError
from finetune.ranks import RankInfo
from finetune.runner import join
from tests.conftest import ROOT, quick, run_train, thorough, write_pairs

STEP = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "4"}
SHELL = STEP | {"SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "40000"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "outer",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "x.invalid",
}


@pytest.fixture
def environment(monkeypatch):
    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    for name in [*ranks.RANK_VARIABLES, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.delenv(name, raising=False)
    return put


@pytest.mark.parametrize(
    "mark", [{"SLURM_PTY_PORT": "1"}, {"SLURM_JOB_NAME": "bash"}, {"SLURM_JOB_NAME": "interactive"}]
)
def test_a_command_typed_into_a_shell_of_srun_is_alone(environment, mark):
    environment(**STEP, **mark)
    assert ranks.current_rank() == RankInfo()


@pytest.mark.parametrize(
    ("command", "alone"), [("exec bash", True), ("exec bash script", False), ("exec sleep 60", False)]
)
def test_a_task_that_is_no_shell_is_one_of_several_also_within_salloc(environment, tmp_path, command, alone):
    (tmp_path / "script").write_text("read -r line")
    task = subprocess.Popen(["sh", "-c", command], cwd=tmp_path, stdin=subprocess.PIPE)
    environment(**STEP, SLURM_JOB_NAME="interactive", SLURM_TASK_PID=str(task.pid))
    until = time.monotonic() + 30
    while (ranks.current_rank() == RankInfo()) != alone and time.monotonic() < until:  # it may still be `sh`
        time.sleep(0.01)
    assert (ranks.current_rank().world == 1) == alone
    task.kill()
    task.communicate()


def test_a_task_that_srun_starts_itself_is_one_of_several_also_with_a_terminal(environment):
    environment(**SHELL, SLURM_TASK_PID=str(os.getpid()))
    assert ranks.current_rank() == RankInfo(0, 4, 0, 4, "srun")


def test_numbers_that_are_none_are_no_error(environment):
    environment(SLURM_STEP_NUM_TASKS="2(x3)")
    assert ranks.current_rank() == RankInfo()


def test_a_single_process_removes_the_variables_of_an_outer_job(environment):
    environment(RANK="3", WORLD_SIZE="4", LOCAL_RANK="3", MASTER_ADDR="x.invalid", SLURM_PROCID="3")
    assert join.join_if_distributed(1) is None
    assert os.environ["RANK"] == "0"
    assert "WORLD_SIZE" not in os.environ and "LOCAL_RANK" not in os.environ and "MASTER_ADDR" not in os.environ


@pytest.mark.parametrize("more", [STEP, TORCHRUN], ids=["srun", "torchrun"])
def test_a_check_waits_for_no_process_and_prints_what_is_wrong(tmp_path, more):
    write_pairs(tmp_path / "pairs.csv")
    answer = run_train("check=true", "data.path=pairs.csv", "trainer.devices=7", cwd=tmp_path, warm=more)
    assert answer.returncode == 2
    assert "and this says 7" in answer.stderr and "and start it again." in answer.stderr
    assert "Waiting" not in answer.stderr and "waits" not in answer.stderr


@pytest.mark.parametrize(("parent", "rank", "speaks"), [("torchrun", 1, False), ("torchrun", 0, True), ("sh", 1, True)])
def test_of_the_processes_that_torchrun_starts_only_the_first_one_speaks(tmp_path, parent, rank, speaks):
    (tmp_path / parent).write_text("import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))")
    command = [sys.executable, parent, sys.executable, str(ROOT / "train.py"), "--nothing"]
    env = os.environ | TORCHRUN | {"RANK": str(rank)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert ("there is no option --nothing" in done.stderr) == speaks


def test_a_second_signal_does_not_keep_a_process_from_reporting_its_end():
    program = """
import signal, sys
from finetune import signals
from finetune.runner import worker

def join(info, timeout):
    for number in signals.ALL:
        signal.raise_signal(number)
    raise RuntimeError

worker.join = join
signals.install(signals.ALL, signals.raise_stop, although_ignored=[signal.SIGINT])
signals._SECONDS_OF_A_REPEAT = 0
worker._report_and_exit(KeyboardInterrupt(), None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGINT, thorough(signal.SIGTERM)])
def test_a_process_whose_others_never_join_prints_so_and_ends_at_a_signal(tiny_model, tmp_path, number):
    write_pairs(tmp_path / "pairs.csv")
    command = [sys.executable, ROOT / "train.py", *quick(tiny_model, "name=run", "trainer.devices=4")]
    env = os.environ | STEP | {"MASTER_PORT": str(free_port())}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        process.send_signal(number)
        start = time.monotonic()
        _, rest = process.communicate(timeout=60)
    assert "for processes 1, 2, 3 of the 4 processes of this run" in line and "unset SLURM_STEP_NUM_TASKS" in line
    assert time.monotonic() - start < 15
    assert (process.returncode, rest) == ((130, "Stopped by Ctrl-C.\n") if number == signal.SIGINT else (-number, ""))
    assert not (tmp_path / "outputs").exists()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_waiting_ends_at_the_time_limit(environment, monkeypatch, capfd):
    monkeypatch.setattr(wait_notice, "_SECONDS_TO_FIRST_NOTICE", 0)
    environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    rendezvous = join.join(RankInfo(0, 3, 0, 3, "srun"))
    with pytest.raises(RunError, match="Processes 1, 2 of this run did not connect to"):
        wait_notice.wait_for_all(rendezvous.missing, rendezvous.info, timedelta(seconds=0.5))
    assert "Waiting at 127.0.0.1" in capfd.readouterr().err


def test_processes_that_do_not_join_the_training_are_reported(environment, monkeypatch, capfd):
    monkeypatch.setattr(wait_notice, "_SECONDS_TO_FIRST_NOTICE", 0)
    monkeypatch.setattr(collectives, "MAX_WAIT", timedelta(seconds=0.5))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
    with pytest.raises(RunError, match="Process 1 of this run did not connect to"):
        collectives.Collectives(torch.device("cpu"), 0, 2)._wait_for_all()
    assert "Waiting at 127.0.0.1" in capfd.readouterr().err


def test_a_missing_first_process_is_reported(environment, monkeypatch, capfd):
    monkeypatch.setattr(wait_notice, "_SECONDS_TO_FIRST_NOTICE", 0)
    environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    with pytest.raises(RunError, match="cannot connect"):
        join.join(RankInfo(2, 3, 2, 3, "torchrun"), timedelta(seconds=0.5))
    assert "Process 2 waits for process 0 of its run at 127.0.0.1" in capfd.readouterr().err


def test_an_address_without_a_machine_and_a_port_that_is_used(environment, monkeypatch):
    monkeypatch.setattr(join, "JOIN_TIMEOUT", timedelta(seconds=0.1))
    environment(MASTER_ADDR="nowhere.invalid", MASTER_PORT="1")
    for rank in range(2):
        with pytest.raises(RunError, match=r"the machine nowhere\.invalid has no address"):
            join.join(RankInfo(rank, 2, rank, 2, "srun"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(server.getsockname()[1]))
        with pytest.raises(RunError, match="is used by another program"):
            join.join(RankInfo(0, 2, 0, 2, "srun"))


def test_what_runs_in_the_background_can_be_interrupted():
    pressed = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    pressed.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        join._in_background(threading.Event().wait, wait_notice.WaitNotice(str))
    assert time.monotonic() - start < 20
