"""The category of what ended a run, and the state of a run whose process was killed."""

import errno
import os
import socket
import subprocess
import sys
import threading

import pytest
import torch

from finetune.data.items import Items
from finetune.errors import FinetuneError, Interrupted, MemoryRanOut, RunError
from finetune.runs.atomic import explain
from finetune.runs.directory import RunDirectory
from finetune.runs.failure_causes import Diverged, cause_of
from finetune.runs.lock import is_locked


def behind(error, cause):
    error.__cause__ = cause
    return error


def refused(number):
    cause = OSError(number, os.strerror(number))
    return behind(explain(cause, "save"), cause)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (MemoryRanOut("Memory ran out."), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in ..."), "out of memory"),
        (RuntimeError("CUDA driver error: out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.85 GB)"), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"), "error"),
        (ValueError("a column is named 'CUDA out of memory'"), "error"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "out of memory"),
        (Diverged("The run diverged."), "diverged"),
        (refused(errno.ENOSPC), "disk full"),
        (OSError(errno.EDQUOT, "quota"), "disk full"),
        (refused(errno.EROFS), "disk"),
        (torch.distributed.DistBackendError("Watchdog caught collective operation timeout"), "timeout"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:1234"), "node lost"),
        (Interrupted("Stopped by SIGTERM."), "stopped"),
        (FinetuneError("a mistake"), "mistake"),
        (RunError("a mishap"), "error"),
        (ValueError("a bug"), "error"),
    ],
)
def test_the_cause_of_an_error(error, cause):
    assert cause_of(error) == cause


def test_an_error_raised_in_the_data_package_is_a_data_error():
    with pytest.raises(AttributeError) as caught:
        Items.take(None, [1])
    assert cause_of(caught.value) == "data"


HOLD = "import sys, pathlib, time; from finetune.runs.directory import RunDirectory as R\n" + (
    "run = R(pathlib.Path(sys.argv[1]))\nwith run.lock():\n run.write_status('running', step=7)\n"
    " print('ready', flush=True)\n time.sleep(60)"
)


def test_a_killed_process_is_detected_by_its_lock(tmp_path):
    run = RunDirectory.create(tmp_path, "a", "")
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    assert run.effective_status()["state"] == "running"
    process.kill()
    process.wait()
    truth = run.effective_status()
    assert (truth["state"], truth["cause"], truth["step"]) == ("interrupted", "killed", 7)
    assert "the last recorded step is 7" in truth["reason"]
    assert run.read_status()["state"] == "running"  # reading does not change the file
    run.write_status("finished")
    assert run.effective_status()["state"] == "finished"


def test_a_process_on_a_lost_machine(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "a", "")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "node-17")
        run.write_status("running", step=3)
    assert run.effective_status()["cause"] == "node lost"
    assert "node-17" in run.effective_status()["reason"]


def test_a_directory_is_created_atomically_with_its_files(tmp_path):
    def fail(run, name):
        (run.path / "config.yaml").write_text(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunDirectory.create(tmp_path, "a", "", fail)
    assert not list(tmp_path.iterdir())

    def look(run, name):
        (run.path / "config.yaml").write_text(name)
        assert not (tmp_path / name).exists()

    assert (RunDirectory.create(tmp_path, "a", "", look).path / "config.yaml").read_text() == "a"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_reading_the_status_does_not_block_the_lock(tmp_path):
    run = RunDirectory.create(tmp_path, "a", "")
    done = threading.Event()

    def look():
        while not done.is_set():
            run.effective_status()

    run.write_status("running")
    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    try:
        for _ in range(50):
            with run.lock():
                assert is_locked(run.path / "lock")
    finally:
        done.set()
    for thread in looking:
        thread.join()
