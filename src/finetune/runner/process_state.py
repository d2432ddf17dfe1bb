"""Restores the state of a Python program that calls `finetune.cli.train.main`: a run changes much of its process."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune import signals, streams
from finetune.errors import FinetuneError

_busy = threading.Lock()


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore what a run changes: streams, signals, environment, folder, logging, warnings, random numbers, torch.

    Raises:
        FinetuneError: another thread is inside: all of this belongs to the process, and two runs cannot share it.
    """
    if not _busy.acquire(blocking=False):
        what = "this process is already running finetune."
        raise FinetuneError(what, "Wait until it has ended, or start each run as a process of its own.")
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(signals.reset)
            for part in (_signals, _environment, _logging, _random_numbers, _resolvers, _torch):
                stack.enter_context(part())
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(streams.replaced())
            stack.enter_context(_console())
            yield
    finally:
        _busy.release()


@contextmanager
def _console() -> Iterator[None]:
    from finetune.console import console, errors  # importing Rich draws random numbers, which are restored too

    before = console.quiet, errors.quiet
    try:
        yield
    finally:
        console.quiet, errors.quiet = before


@contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can change them
        return
    numbers = [getattr(signal, name) for name in ("SIGPIPE", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (*signals.ALL, *numbers)}
    try:
        yield
    finally:
        signals.restore(before)


@contextmanager
def _environment() -> Iterator[None]:
    variables, path, folder = dict(os.environ), list(sys.path), ""
    with contextlib.suppress(OSError):  # the folder may have been removed
        folder = os.getcwd()  # noqa: PTH109 - a string, as chdir takes
    try:
        yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in variables.items() if os.environ.get(name) != value})
        sys.path[:] = path
        if folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)


@contextmanager
def _logging() -> Iterator[None]:
    named = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(one for one in named if isinstance(one, logging.Logger))]
    before = [(one, one.level, list(one.handlers), one.propagate, one.disabled) for one in loggers]
    # Hydra's logging closes every handler in this list, also those of the program.
    known, logging._handlerList[:] = list(logging._handlerList), []  # type: ignore[attr-defined]
    raises = logging.raiseExceptions
    logging.raiseExceptions = False  # a full disk must not print a traceback for each line
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for handler in [handler for handler in logging.root.handlers if handler not in before[0][2]]:
            handler.close()  # that of run.log
        for one, level, handlers, propagate, disabled in before:
            one.setLevel(level)
            one.handlers, one.propagate, one.disabled = handlers, propagate, disabled
        logging._handlerList[:0] = known  # type: ignore[attr-defined]


@contextmanager
def _random_numbers() -> Iterator[None]:
    state, numpy = random.getstate(), sys.modules.get("numpy")
    numbers = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(numbers)
        elif "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # as after an import: from the system


@contextmanager
def _resolvers() -> Iterator[None]:
    omegaconf: Any = sys.modules.get("omegaconf.basecontainer")
    known = {} if omegaconf is None else dict(omegaconf.BaseContainer._resolvers)
    try:
        yield
    finally:
        if known:
            omegaconf.BaseContainer._resolvers.update(known)  # ${now:} and ${hydra:}


@contextmanager
def _torch() -> Iterator[None]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        try:
            yield
        finally:
            torch = sys.modules.get("torch")
            if torch is not None:
                torch.set_rng_state(torch.Generator().get_state())  # as after an import
                _leave_group(torch)
        return
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    has_group = _has_group(torch)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)
        if not has_group:
            _leave_group(torch)


def _leave_group(torch: Any) -> None:
    """Leave the process group of a run, which the next run of this program would use as its own."""
    if not streams.is_program() and _has_group(torch):
        torch.distributed.destroy_process_group()


def _has_group(torch: Any) -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())
