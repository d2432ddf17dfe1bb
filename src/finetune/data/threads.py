"""A function applied to many items in threads, with its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from finetune.cores import visible_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores(most: int = 16) -> int:
    """Return how many cores this process may use, at most `most`."""
    return min(most, len(visible_cores()))


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, in_flight: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed in `threads` threads (at least one).

    At most `in_flight` items (by default one for each thread) are submitted and not yet yielded, so that memory stays
    bounded; `items` is iterated in the calling thread, and no further than that. The next item is submitted before a
    result is yielded: the threads work while the caller uses the result. When the caller stops early or an item fails,
    items that were not started are cancelled.

    Raises:
        Exception: what `function` raises, after the results of all items before.
    """
    threads = max(1, threads)
    remaining = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="finetune-data")
    pending: deque[Future[Result]] = deque()
    try:
        for item in islice(remaining, in_flight or threads):
            pending.append(pool.submit(function, item))
        while pending:
            result = pending.popleft().result()
            for item in islice(remaining, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
