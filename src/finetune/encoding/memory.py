"""Memory: what is available and used, what a graph keeps, and the budget of the engine."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import resource
import sys
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from finetune.console import say
from finetune.models.encoder import Encoder

MB = 2**20
# More tokens do not make a GPU faster; a CPU is fastest while the widest activation of a micro-batch fits in its cache.
_MAX_GPU_TOKENS = 32_768
_CPU_CACHE_BYTES = 12 * MB
_MIN_TOKENS = 256
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


@dataclass
class Budget:
    """`tokens` of one micro-batch, and `kept` bytes of activations of all micro-batches."""

    tokens: int
    kept: int

    def halve(self, longest: int, error: BaseException) -> None:
        """Halve both, because memory ran out; `longest` is the number of tokens of the longest item.

        Raises:
            BaseException: `error`, if a single item was already too large.
        """
        if self.tokens < longest and not self.kept:
            raise error
        self.tokens = max(1, self.tokens // 2)
        self.kept = self.kept // 2 if self.kept > MB else 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"Memory ran out: the step is repeated with engine.token_budget={self.tokens}.")


def find_budget(encoder: Encoder, tokens: int | None, kept_mb: int | None) -> Budget:
    """Return the budget for an encoder on its device; a number that is None is derived from the available memory."""
    device = next(encoder.parameters()).device
    free = available(device)
    if kept_mb is None:
        # Gradients and the optimizer's two moments are allocated after this, in the first step.
        weights = sum(weight.nbytes for weight in encoder.parameters() if weight.requires_grad)
        usable = max(0, free - 4 * weights)
        kept_mb = usable // (2 if device.type == "cuda" else 4) // MB
    if tokens is None:
        tokens = _max_tokens(encoder, device, free)
    return Budget(tokens, kept_mb * MB)


def _max_tokens(encoder: Encoder, device: torch.device, free: int) -> int:
    if device.type == "cpu":
        return max(_MIN_TOKENS, _CPU_CACHE_BYTES // (4 * encoder.widest))
    # In fp32, per layer: a dozen tensors of the hidden size and three of the widest; for a quarter of the free memory.
    per_token = 4 * encoder.depth * (12 * encoder.hidden + 3 * encoder.widest)
    return min(_MAX_GPU_TOKENS, max(_MIN_TOKENS, free // 4 // per_token))


class SavedTensorCounter:
    """Counts the bytes that autograd saves for the backward pass, without the parameters.

    `shared` are the addresses of what all micro-batches have in common; this set may grow later.
    """

    def __init__(self, parameters: Iterable[Tensor], shared: Set[int] = frozenset()) -> None:
        self.bytes = 0
        self._counted = {parameter.data_ptr() for parameter in parameters}
        self._shared = shared

    @contextlib.contextmanager
    def counted(self, device: torch.device) -> Iterator[None]:
        """Count what is saved inside of this context."""
        if device.type == "cuda":
            # The allocator's own count, which does not wait for the device.
            before = torch.cuda.memory_allocated(device)
            yield
            self.bytes += torch.cuda.memory_allocated(device) - before
        else:
            with torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor):
                yield

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._counted and address not in self._shared:
            self._counted.add(address)
            self.bytes += storage.nbytes()
        # Not the tensor itself: an operation may save its own output, which may never reach the loss (BERT's pooler).
        # Graph and output would then refer to each other, a cycle in C++ that no garbage collector finds.
        return tensor.detach()


def tune_malloc() -> None:
    """Let the C library keep freed memory for the next tensor, instead of returning it to the system each time.

    A step allocates the same tensors again and again, and pages that are new to the process cost as much as the
    computation on them. Only glibc has the setting; elsewhere this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def available(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on `device`, as far as the system reports it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    limits = [_available_of_machine(), _available_of_container()]
    return min((limit for limit in limits if limit is not None), default=4 * 1024 * MB)


def peak(device: torch.device) -> int:
    """Return the peak of the bytes that this process has used: on a GPU of its memory, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS, in KB elsewhere
    return maximum if sys.platform == "darwin" else maximum * 1024


def _available_of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _available_of_container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # ValueError: the limit is "max", which is none
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        return max(limit - used, 0)
    return None
