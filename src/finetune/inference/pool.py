"""Embeds blocks of items on several devices, with a process of its own for each.

The processes are started by `spawn`, which imports the main script again: a script has to do its work below
`if __name__ == "__main__":`. A notebook needs nothing.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from finetune.cores import visible_cores
from finetune.errors import RunError
from finetune.inference.build_encoder import build_encoder
from finetune.inference.embedder import Block, Dtype, LocalEmbedder
from finetune.inference.quantize import Floats

_BLOCKS_PER_DEVICE = 2  # one that is computed, and one that waits

_embedder: LocalEmbedder | None = None  # that of a worker process


class DevicePool:
    """Workers that each hold the model of a folder on one of `devices`, started by the first call.

    May be used by several threads.
    """

    def __init__(self, folder: Path, devices: Sequence[torch.device], dtype: Dtype, max_length: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        waiting: Queue[torch.device] = context.Queue()
        for device in devices:
            waiting.put(device)
        self._devices = devices
        threads = max(1, len(visible_cores()) // Counter(device.type for device in devices)["cpu"] or 1)
        self._executor = ProcessPoolExecutor(
            len(devices), context, initializer=_start, initargs=(folder, waiting, dtype, max_length, threads)
        )

    def embed_all(self, blocks: Iterable[Block]) -> Iterator[Floats]:
        """Yield the embeddings of each block, in order; blocks are read only a few ahead.

        Raises:
            RunError: a process ended, for example because memory ran out.
        """
        remaining = iter(blocks)
        pending: deque[Future[Floats]] = deque()
        try:
            for block in islice(remaining, _BLOCKS_PER_DEVICE * len(self._devices)):
                pending.append(self._executor.submit(_embed, block))
            while pending:
                result = pending.popleft().result()
                for block in islice(remaining, 1):
                    pending.append(self._executor.submit(_embed, block))
                yield result
        except BrokenProcessPool as error:
            what = f"a process that embeds on one of {', '.join(map(str, self._devices))} ended unexpectedly."
            advice = (
                "Did memory run out? Use fewer devices. A script needs `if __name__ == '__main__':` around its work."
            )
            raise RunError(what, advice) from error
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown(cancel_futures=True)


def _start(folder: Path, waiting: Queue[torch.device], dtype: Dtype, max_length: int | None, cpu_threads: int) -> None:
    global _embedder  # noqa: PLW0603 the only state of a worker
    device = waiting.get()
    if device.type == "cpu":
        torch.set_num_threads(cpu_threads)
    encoder, settings = build_encoder(folder, max_length)
    _embedder = LocalEmbedder(encoder, settings, device, dtype)


def _embed(block: Block) -> Floats:
    assert _embedder is not None
    return _embedder.embed(block)
