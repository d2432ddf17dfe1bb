"""Measurements in fresh processes whose imports are done already: forked from a server that imported the libraries.

On a GPU a process that imports torch, transformers and Lightning by itself takes longer to start than to measure. The
server has no CUDA context, so each measurement has one of its own, and memory of its own. Where a fork cannot use the
GPU (a library created a context while it was imported), processes are started from nothing instead.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

LIBRARIES = ["torch", "transformers", "pytorch_lightning", "datasets", "sentence_transformers", "finetune.training.fit"]


class MeasurementError(Exception):
    """A measurement failed, or took longer than it may; the text is one line."""


class Prepared:
    """Starts measurements in processes that have imported `libraries`."""

    def __init__(self, device: str, libraries: Sequence[str] = LIBRARIES) -> None:
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*libraries])
        if device == "cuda":
            try:
                self.measure(_create_context, (), 120)
            except MeasurementError as error:
                print(f"Processes are started from nothing, as a fork cannot use the GPU: {error}", flush=True)
                self._context = multiprocessing.get_context("spawn")

    def measure(self, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], limit: float) -> Any:
        """Return what `function` returns in a process of its own, with `seconds_in_all` and `process_mb` added.

        Raises:
            MeasurementError: it raised an error, its process died, or it took longer than `limit` seconds.
        """
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(sender, function, arguments))
        start = time.monotonic()
        process.start()
        sender.close()
        try:
            answer = receiver.recv() if receiver.poll(max(0.0, limit)) else {"error": f"longer than {limit:.0f} s"}
            process.join(5 if "error" not in answer else 0)
        except EOFError:
            process.join()
            answer = {"error": f"the process ended with status {process.exitcode}"}
        finally:
            process.kill()
            process.join()
        if "error" in answer:
            raise MeasurementError(answer["error"])
        return {**answer, "seconds_in_all": time.monotonic() - start}


def _run(sender: Connection, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    try:
        answer = function(*arguments)
        answer["process_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    except MeasurementError as error:
        answer = {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip()
        answer = {"error": f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"}
    sender.send(answer)
    sender.close()


def _create_context() -> dict[str, Any]:
    import torch

    torch.zeros(1, device="cuda")
    return {}
