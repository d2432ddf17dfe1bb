"""A function applied in threads: results in order, errors in order, a bounded number of items in flight."""

from __future__ import annotations

import threading
import time

import pytest

from finetune.data.threads import map_in_threads


def test_results_come_in_the_order_of_the_items():
    def slow_first(item: int) -> int:
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(map_in_threads(slow_first, range(20), threads=4)) == [item * item for item in range(20)]


def test_no_items_give_no_results():
    assert list(map_in_threads(str, [], threads=2)) == []


def test_fewer_than_one_thread_is_one_thread():
    names = set(map_in_threads(lambda _: threading.current_thread().name, range(8), threads=0, in_flight=4))
    assert len(names) == 1


@pytest.mark.parametrize(("in_flight", "expected"), [(None, 3), (7, 7)])
def test_items_are_iterated_only_as_far_as_they_are_in_flight(in_flight, expected):
    iterated = []

    def items():
        for item in range(100):
            iterated.append(item)
            yield item

    results = map_in_threads(str, items(), threads=3, in_flight=in_flight)
    assert iterated == []
    assert next(results) == "0"
    assert len(iterated) == expected + 1  # the next item is submitted before a result is yielded
    assert next(results) == "1"
    assert len(iterated) == expected + 2
    results.close()


def test_the_next_item_is_computed_while_a_result_is_used():
    started = threading.Event()

    def function(item: int) -> int:
        if item == 1:
            started.set()
        return item

    results = map_in_threads(function, range(3), threads=1)
    assert next(results) == 0
    assert started.wait(10)
    assert list(results) == [1, 2]


def test_an_error_is_raised_after_the_results_before_it():
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = map_in_threads(fail_at_three, range(50), threads=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_an_error_of_the_iterator_is_raised():
    def items():
        yield 1
        yield 2
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        list(map_in_threads(str, items(), threads=1))


def test_items_that_were_not_started_are_cancelled_when_the_caller_stops():
    release = threading.Event()
    called = []

    def function(item: int) -> int:
        called.append(item)
        if item:
            release.wait(10)
        return item

    results = map_in_threads(function, range(50), threads=1, in_flight=20)
    assert next(results) == 0
    threading.Timer(0.2, release.set).start()  # `close` waits for the item that is being computed
    results.close()
    assert called in ([0], [0, 1])
