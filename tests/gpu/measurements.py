"""What the processes of `test_benchmarks.py` do; a module of its own, since each of them imports it."""

import os
import time


def squared(number):
    return {"square": number**2}


def fails(number):
    raise RuntimeError(f"number {number}\nand more")


def hangs(_):
    time.sleep(60)


def dies(_):
    os._exit(7)
