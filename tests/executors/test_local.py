"""Processes of this machine as an executor starts them; each is a small script in place of a training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.config.command_line import Arguments
from finetune.errors import FinetuneError
from finetune.executors.base import RunRequest
from finetune.executors.cancel import cancel_runs
from finetune.executors.local import LocalExecutor
from finetune.executors.pending import pending
from finetune.executors.resources import Slot
from finetune.runs.delete import delete_run
from finetune.runs.lock import LockHeld, is_locked
from finetune.runs.record import read_run
from tests.runs.made import living, make_run

WAITS = "import time; time.sleep(60)"

# What a run does with the lock of its parent; its child outlives it.
ADOPTS = """
import os, sys, time
from pathlib import Path
from finetune.runs.directory import RunDirectory
from finetune.runs.lock import adopt_inherited
adopt_inherited()
assert not [name for name in os.environ if name.startswith("FINETUNE_LOCK")]
run = RunDirectory(Path({path!r}))
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
with run.lock():
    run.write_status("running")
    time.sleep(60)
"""

# A program that starts a run, prints the id of its process, and is then killed.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import finetune.executors.local as local
from finetune.config.command_line import Arguments
from finetune.executors.base import RunRequest
from finetune.executors.pending import pending
from finetune.executors.resources import Slot
from finetune.runs.directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
local.RUN_SCRIPT = sys.argv[2]
executor = local.LocalExecutor([Slot()], Arguments([]), prints=False)
with pending(run, existed=True, keeps_lock=True) as lock:
    executor.submit(RunRequest(run.path, []), lock)
    print(executor._processes[0].child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """Return a function that starts a script as the process of a run; at the end all of them are killed."""
    executors = []

    def start(run, script, lock=None, executor=None):
        path = tmp_path / f"{run.name}.py"
        path.write_text(script)
        monkeypatch.setattr("finetune.executors.local.RUN_SCRIPT", path)
        if executor is None:
            executor = LocalExecutor([Slot(), Slot()], Arguments([]), prints=False)
            executors.append(executor)
        executor.submit(RunRequest(run.path, []), lock)
        return executor

    yield start
    for executor in executors:
        executor.stop(signal.SIGKILL)


def outcomes_of(executor, count=1):
    outcomes = []
    while len(outcomes) < count:
        outcomes += executor.poll()
        time.sleep(0.02)
    return outcomes


def has_ended(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_status_of_a_run_that_another_process_works_on_is_left_alone(tmp_path, starts):
    run = make_run(tmp_path, "e/a", "created")
    with living(run) as process:
        before = run.status_path.read_bytes()
        (outcome,) = outcomes_of(starts(run, "raise SystemExit('the run is in use')"))
        assert (outcome.state, outcome.reason) == ("failed", "the run is in use")
        assert run.status_path.read_bytes() == before
        process.communicate("")
    assert run.read_status()["state"] == "finished"
    (outcome,) = outcomes_of(starts(run, "raise SystemExit('the run is finished')"))
    assert (outcome.state, outcome.reason) == ("failed", "the run is finished")
    assert run.read_status()["state"] == "finished"


def test_a_process_that_could_not_write_its_status_is_recorded(tmp_path, starts):
    run = make_run(tmp_path, "e/a", "running")
    (outcome,) = outcomes_of(starts(run, "import os; os.kill(os.getpid(), 9)"))
    assert (outcome.state, outcome.reason) == ("failed", "killed by SIGKILL")
    assert (run.read_status()["state"], run.read_status()["reason"]) == ("failed", "killed by SIGKILL")


def test_a_pruned_run_is_recorded_as_stopped(tmp_path, starts):
    run = make_run(tmp_path, "e/a", "interrupted", reason="Stopped by SIGTERM at step 3.")
    executor = starts(run, WAITS)
    executor.cancel(run.path, "pruned")
    (outcome,) = outcomes_of(executor)
    assert (outcome.state, outcome.reason) == ("interrupted", "pruned")
    assert (run.read_status()["reason"], run.read_status()["cause"]) == ("pruned", "stopped")


def test_a_status_that_cannot_be_read_loses_neither_this_run_nor_later_ones(tmp_path, starts):
    damaged, whole = make_run(tmp_path, "e/a", "running"), make_run(tmp_path, "e/b", "running")
    damaged.status_path.unlink()
    damaged.status_path.mkdir()
    executor = starts(damaged, "raise SystemExit(1)")
    starts(whole, "raise SystemExit('no')", executor=executor)
    first, second = sorted(outcomes_of(executor, 2), key=lambda outcome: outcome.path)
    assert (first.path, first.state) == (damaged.path, "failed") and "could not read" in first.reason
    assert (second.path, second.state, second.reason) == (whole.path, "failed", "no")
    assert executor.has_room() and executor.poll() == []


def test_an_exception_while_printing_loses_no_run(tmp_path, starts, monkeypatch):
    run = make_run(tmp_path, "e/a", "running")
    executor = starts(run, "raise SystemExit('no')")
    executor._processes[0].child.wait()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalExecutor, "_print_errors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        executor._remove_ended()
    assert [outcome.reason for outcome in executor.poll()] == ["no"]


def test_a_run_belongs_to_its_process_from_its_submission_on(tmp_path, starts):
    run = make_run(tmp_path, "e/a", "interrupted")
    with pending(run, existed=True, keeps_lock=True) as lock:
        executor = starts(run, WAITS, lock)
    process = executor._processes[0].child.pid
    assert read_run(run.path).state == "pending"
    in_use = f"in use by process {process} on "
    with pytest.raises(LockHeld, match=in_use), pending(run, existed=True):
        pass
    with pytest.raises(LockHeld, match=in_use):
        delete_run(run.path, tmp_path)
    cancel_runs([read_run(run.path)])
    (outcome,) = outcomes_of(executor)
    assert (outcome.state, outcome.reason) == ("interrupted", "Cancelled before it started training.")
    assert (read_run(run.path).state, run.read_status()["cause"]) == ("interrupted", "stopped")
    assert is_locked(run.lock_path) is False


def test_a_submission_that_fails_releases_the_run_as_it_was(tmp_path):
    run = make_run(tmp_path, "e/a", "interrupted")
    before = run.read_status()
    with pytest.raises(ZeroDivisionError), pending(run, existed=True, keeps_lock=True):
        assert is_locked(run.lock_path) and run.read_status()["state"] == "pending"
        raise ZeroDivisionError
    assert is_locked(run.lock_path) is False and run.read_status() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_keeps_its_lock_when_the_program_that_started_it_is_killed(tmp_path):
    run = make_run(tmp_path, "e/a", "interrupted")
    script = tmp_path / "run.py"
    script.write_text(WAITS)
    command = [sys.executable, "-c", PROGRAM, str(run.path), str(script)]
    program = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert program.returncode == -signal.SIGKILL
    process = int(program.stdout)
    try:
        assert read_run(run.path).state == "pending"
        with pytest.raises(FinetuneError, match=f"in use by process {process} on "):
            delete_run(run.path, tmp_path)
    finally:
        os.kill(process, signal.SIGKILL)
    while not has_ended(process):
        time.sleep(0.01)
    record = read_run(run.path)
    assert record.state == "dead" and "while it was pending" in record.reason


def test_a_lock_that_a_run_inherited_ends_with_it_although_its_children_live(tmp_path, starts):
    run = make_run(tmp_path, "e/a", "interrupted")
    with pending(run, existed=True, keeps_lock=True) as lock:
        executor = starts(run, ADOPTS.format(path=str(run.path)), lock)
    process = executor._processes[0].child
    while run.read_status()["state"] == "pending":
        assert process.poll() is None
        time.sleep(0.02)
    assert read_run(run.path).state == "running"
    assert run.lock_path.read_text().startswith(f"process {process.pid} on ")
    process.kill()
    process.wait()
    os.killpg(process.pid, 0)  # its child is alive
    assert is_locked(run.lock_path) is False
