"""How much memory is available, and how much a graph keeps."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import resource
import sys
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import torch
from torch import Tensor

MB = 2**20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


class SavedTensorCounter:
    """Counts the bytes that autograd keeps for the backward pass, beyond the parameters themselves.

    `shared` are the addresses of what all micro-batches have in common, which may still grow.
    """

    def __init__(self, parameters: Iterable[Tensor], shared: Set[int] = frozenset()) -> None:
        self.bytes = 0
        self._seen = {parameter.data_ptr() for parameter in parameters}
        self._shared = shared

    @contextlib.contextmanager
    def counted(self, device: torch.device) -> Iterator[None]:
        """Count what is computed within."""
        if device.type == "cuda":
            # The allocator's own count, which is at hand without waiting for the device.
            before = torch.cuda.memory_allocated(device)
            yield
            self.bytes += torch.cuda.memory_allocated(device) - before
        else:
            with torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor):
                yield

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._seen and address not in self._shared:
            self._seen.add(address)
            self.bytes += storage.nbytes()
        # Not the tensor itself: an operation may save its own output, which may never reach the loss (BERT's pooler).
        # Graph and output would then refer to each other, a cycle in C++ that no garbage collector sees.
        return tensor.detach()


def tune_malloc() -> None:
    """Have the C library keep what is freed for the next tensor, in place of giving it back to the system each time.

    A step allocates the same tensors again and again, and pages that are new to the process cost as much as what is
    computed on them. Only glibc has the setting; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def available(device: torch.device) -> int:
    """Return the bytes that a process may still take on `device`, as far as the system tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    limits = [_meminfo(), _cgroup()]
    return min((limit for limit in limits if limit is not None), default=4 * 1024 * MB)


def peak(device: torch.device) -> int:
    """Return the most bytes this process has held so far: on a GPU of its memory, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _meminfo() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroup() -> int | None:
    # A container's own limit; "max" where there is none.
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        return max(limit - used, 0)
    return None
