"""The output of the processes of a run other than the first, in its folder `ranks`: only the first one prints."""

from __future__ import annotations

import faulthandler
import os
import sys

from finetune.console import alert
from finetune.errors import RunError
from finetune.runs.directory import START_OF_OUTPUT, RunDirectory

_opened: list[int] = []  # faulthandler needs the file as long as the process lives


def write_to_file(run: RunDirectory, rank: int) -> None:
    """From now on write what this process and its libraries print, and where it crashes, to `ranks/RANK.log`."""
    descriptor = _open(run, rank)
    if descriptor is None:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable(descriptor, all_threads=False)


def record_crashes(run: RunDirectory, rank: int) -> None:
    """From now on write the traceback of a crash (a segmentation fault, an abort by a library) to `ranks/RANK.log`."""
    descriptor = _open(run, rank)
    if descriptor is not None:
        faulthandler.enable(descriptor, all_threads=False)


def _open(run: RunDirectory, rank: int) -> int | None:
    path = run.rank_output(rank)
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:  # it may still be able to do its work
        alert(str(RunError(f"{path} cannot be written: {error.strerror}.")))
        return None
    os.write(descriptor, START_OF_OUTPUT.encode())
    _opened.append(descriptor)
    return descriptor
