"""A process that does not join a collective operation is found and named; a slow one is not."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from finetune.runner import join, stall
from finetune.runner.stall import StallDetector
from finetune.runs.failure_causes import cause_of
from finetune.wait_notice import WaitNotice


class Clock:
    """Replaces `time`, which only passes when a test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stall, "time", clock)
    return clock


@pytest.fixture
def store():
    return join.connect_store("127.0.0.1", 0, True, timedelta(seconds=60), WaitNotice(str))


class Process:
    """One of three processes, which has started a number of operations."""

    def __init__(self, store, rank, monkeypatch):
        self.started, self._monkeypatch = 0, monkeypatch
        self._detector = StallDetector(store, rank, 3, timedelta(seconds=100))

    def check(self, started=None):
        if started is not None:
            self.started = started
        with self._monkeypatch.context() as patch, ThreadPoolExecutor() as other_thread:
            patch.setattr("finetune.encoding.collectives.count_started", lambda: self.started)
            return other_thread.submit(self._detector.check).result()


@pytest.fixture
def processes(store, clock, monkeypatch):
    return [Process(store, rank, monkeypatch) for rank in range(3)]


def check_all(processes, *started):
    return [process.check(count) for process, count in zip(processes, started, strict=True)]


def test_the_processes_that_are_behind_are_named_with_where_the_first_of_them_is(processes, clock):
    assert check_all(processes, 5, 4, 5) == [None] * 3
    clock.now = 99
    assert check_all(processes, 5, 4, 5) == [None] * 3
    clock.now = 101
    for error in check_all(processes, 5, 4, 5):
        assert error.what.startswith(
            "process 1 has not joined the others in a collective operation for 1.67 minutes; process 1 was last at "
        )
        assert "test_stall.py" in error.what
        assert "collective_timeout" in error.advice
        assert cause_of(error) == "timeout"


def test_several_processes_are_missing(processes, clock):
    check_all(processes, 5, 4, 4)
    clock.now = 101
    assert "processes 1, 2 have not joined" in processes[0].check().what


def test_processes_that_compute_for_long_are_not_missing(processes, clock):
    """All have started the same operations: none waits for another."""
    for clock.now in (0, 101, 1000):
        assert check_all(processes, 7, 7, 7) == [None] * 3


def test_the_time_counts_from_the_last_operation(processes, clock):
    for clock.now in (0, 90, 180, 270):
        assert check_all(processes, clock.now + 1, clock.now, clock.now + 1) == [None] * 3


def test_a_process_that_has_reported_nothing_yet_is_not_judged(processes, clock):
    processes[0].check(3)
    clock.now = 101
    assert processes[0].check() is None


def test_a_short_time_is_said_in_seconds(store, clock, monkeypatch):
    processes = [Process(store, rank, monkeypatch) for rank in range(3)]
    for process in processes:
        process._detector._timeout = 3.0
    check_all(processes, 2, 2, 1)
    clock.now = 4
    assert "process 2 has not joined the others in a collective operation for 3 seconds" in processes[0].check().what
