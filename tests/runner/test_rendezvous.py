"""Why a run of several processes ended, reported to the first one; an error caused by another's end is no reason."""

import os
import signal
import subprocess
import threading
from datetime import timedelta

import pytest

from finetune.errors import FinetuneError, Interrupted
from finetune.ranks import RankInfo
from finetune.runner import join
from finetune.runner.liveness import MACHINE_LOST
from finetune.runner.rendezvous import ExitReport, Rendezvous
from finetune.runs.failure_causes import RemoteRankError, cause_of
from finetune.signals import StopRequested
from finetune.wait_notice import WaitNotice

GONE = RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
STOP = Interrupted("Stopped by Ctrl-C at step 3 of 9.")


@pytest.fixture
def peers():
    quiet, patience = WaitNotice(str), timedelta(seconds=60)
    first = join.connect_store("127.0.0.1", 0, True, patience, quiet)
    second = join.connect_store("127.0.0.1", first.port, False, patience, quiet)
    return Rendezvous(first, RankInfo(0, 2, 0, 2, "torchrun")), Rendezvous(second, RankInfo(1, 2, 1, 2, "torchrun"))


def failed():
    try:
        raise ValueError("mine")
    except ValueError as error:
        return ExitReport.of(error)


@pytest.mark.parametrize("error", [GONE, KeyboardInterrupt(), SystemExit(1)])
def test_the_failure_of_another_is_what_ended_a_process_that_only_saw_its_end(peers, error):
    first, second = peers
    second.end(failed())
    cause = first.root_cause(error)
    assert isinstance(cause, RemoteRankError)
    assert (cause.what, cause.exit_code, cause_of(cause)) == ("process 1: ValueError: mine", 1, "error")
    assert 'raise ValueError("mine")' in cause.trace


def test_a_mistake_keeps_its_advice_and_its_exit_code(peers):
    first, second = peers
    second.end(ExitReport.of(FinetuneError("There is no file x.csv.", "Put it there.")))
    cause = first.root_cause(GONE)
    assert (cause.what, cause.advice, cause.exit_code) == ("process 1: There is no file x.csv.", "Put it there.", 2)
    assert cause_of(cause) == "mistake"
    assert not cause.trace


def test_memory_that_ran_out_elsewhere(peers):
    first, second = peers
    second.end(ExitReport.of(MemoryError()))
    assert cause_of(first.root_cause(GONE)) == "out of memory"


def test_an_error_of_its_own_comes_first_and_a_stop_is_no_failure(peers):
    first, second = peers
    second.end(ExitReport.of(GONE))
    own = ValueError("own")
    assert first.root_cause(own) is own
    assert first.root_cause(STOP) is STOP
    second.end(ExitReport.of(STOP))
    assert first.root_cause(STOP) is STOP


def test_a_process_that_was_stopped_alone_is_the_cause_for_the_others(peers, monkeypatch):
    monkeypatch.setattr("finetune.runner.rendezvous._SECONDS_FOR_REPORT", 0)
    first, second = peers
    second.end(ExitReport.of(STOP))
    cause = first.root_cause(GONE)
    assert cause.what.startswith("process 1 was stopped") and cause_of(cause) == "stopped"


@pytest.mark.parametrize(
    ("stop", "what"),
    [
        (StopRequested(signal.SIGTERM), "process 1 was stopped by SIGTERM."),
        (KeyboardInterrupt(), "process 1 was stopped by Ctrl-C."),
        (STOP, "process 1 was stopped by Ctrl-C at step 3 of 9."),
    ],
)
def test_the_reason_of_a_stop_names_the_signal(peers, monkeypatch, stop, what):
    monkeypatch.setattr("finetune.runner.rendezvous._SECONDS_FOR_REPORT", 0)
    first, second = peers
    second.end(ExitReport.of(stop))
    assert first.root_cause(GONE).what == what


def test_one_that_ended_without_a_report_was_killed(peers):
    first, second = peers
    ended = subprocess.Popen(["true"])
    machine = second._store.get("process/1").decode().rpartition(" ")[0]
    second.set("process/1", f"{machine} {ended.pid}")
    while first.exited() != {1: "was killed"}:  # as long as nobody asks for it, it is there and has ended
        pass
    ended.wait()
    cause = first.root_cause(GONE)
    assert (cause.what, cause_of(cause)) == ("process 1 was killed.", "killed")


def test_a_number_on_another_machine_says_nothing(peers):
    first, second = peers
    second.set("process/1", "another 1234567")
    assert not first.exited()


def test_a_process_that_waits_for_a_failed_one_is_ended(peers, monkeypatch):
    monkeypatch.setattr("finetune.runner.rendezvous._SECONDS_TO_END", 0.0)
    first, second = peers
    found, over = [], threading.Event()
    with first.watched(lambda error: (found.append(error.what), over.set())):
        second.end(failed())
        assert over.wait(60)
    assert found == ["process 1: ValueError: mine"]


def test_get_waits_for_the_value(peers):
    first, second = peers
    threading.Timer(0.1, lambda: first.set("run", "here")).start()
    assert second.get("run") == "here"
    assert os.getpid() == int(first._store.get("process/1").decode().split()[-1])


def test_the_first_one_stays_until_the_others_have_read_that_the_run_is_finished(peers):
    first, second = peers
    other = threading.Thread(target=second.wait_for_finish)
    other.start()
    first.finish()
    assert first.get("heard/1") == ""
    other.join(60)
    assert not other.is_alive()


STALL = RemoteRankError("process 1 has not joined the others.", "Find out why.", "timeout", rank=1)


def test_a_failure_that_another_process_has_found_is_that_of_this_one_too(peers):
    first, second = peers
    over = threading.Event()
    second._end_soon(second._store, STALL, lambda _: over.set())
    assert over.is_set()  # at once: no library would notice soon
    cause = first.root_cause(GONE)
    assert (cause.what, cause.advice, cause_of(cause), cause.rank) == (STALL.what, STALL.advice, "timeout", 1)


@pytest.mark.parametrize(
    ("how", "what", "cause"),
    [
        ("was killed by SIGKILL", "process 1 was killed by SIGKILL.", "killed"),
        ("ended with exit code 1", STALL.what, "timeout"),  # it ended because of what it has found
    ],
)
def test_a_process_that_was_killed_comes_before_what_another_has_found(peers, how, what, cause):
    first, second = peers
    second._end_soon(second._store, STALL, lambda _: None)
    first.exited = lambda: {1: how}
    found = first.root_cause(GONE)
    assert (found.what, cause_of(found)) == (what, cause)


@pytest.mark.parametrize(
    ("how", "cause", "advice"),
    [
        ("was killed by SIGSEGV", "error", "native code"),
        ("was killed by SIGKILL", "killed", "memory runs out"),
        ("ended with exit code 3", "error", ""),
        (MACHINE_LOST, "node lost", ""),
    ],
)
def test_how_a_process_ended_without_a_report(peers, how, cause, advice):
    first, _ = peers
    first.exited = lambda: {1: how}
    found = first.root_cause(GONE)
    assert (found.what, cause_of(found), found.rank) == (f"process 1 {how}.", cause, 1)
    assert advice in found.advice


def test_an_error_of_a_gpu_is_reported_with_its_advice_and_is_no_consequence(peers):
    first, second = peers
    second.end(ExitReport.of(RuntimeError("CUDA error: uncorrectable ECC error encountered")))
    cause = first.root_cause(GONE)
    assert cause.what.startswith("process 1: A GPU has a hardware error")
    assert (cause_of(cause), "nvidia-smi" in cause.advice) == ("gpu", True)
