"""Memory: what a graph keeps for the backward pass, and the budget of the engine."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune import devices
from finetune.errors import MemoryRanOut
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

    def halve_tokens(self, used: int) -> None:
        """Halve the tokens of a micro-batch, or the `used` ones if they were fewer."""
        self.tokens = max(1, min(self.tokens, used) // 2)

    def halve_kept(self, used: int) -> None:
        """Halve the bytes that are kept, or the `used` ones if they were fewer; less than half a MB is not kept."""
        kept = min(self.kept, used)
        self.kept = kept // 2 if kept > MB else 0


def find_budget(encoder: Encoder, tokens: int | None, kept_mb: int | None) -> Budget:
    """Return the budget for an encoder on its device; a number that is None is derived from the available memory."""
    device = devices.of(next(encoder.parameters()).device)
    free = device.available()
    # In the first step the gradients and the optimizer's two moments are allocated, and as much again for its results.
    weights = sum(weight.nbytes for weight in encoder.parameters() if weight.requires_grad)
    usable = max(0, free - 4 * weights)
    if kept_mb is None:
        kept_mb = usable // (2 if device.has_own_memory else 4) // MB
    if tokens is None:
        # An evaluation alone has no optimizer, and micro-batches that keep nothing: it gets some memory in any case.
        tokens = _max_tokens(encoder, device, max(usable // 4, free // 16))
    return Budget(tokens, kept_mb * MB)


def _max_tokens(encoder: Encoder, device: devices.Device, limit: int) -> int:
    if device.is_cpu:
        return max(_MIN_TOKENS, _CPU_CACHE_BYTES // (4 * encoder.widest))
    # In fp32, per layer: a dozen tensors of the hidden size and three of the widest.
    per_token = 4 * encoder.depth * (12 * encoder.hidden + 3 * encoder.widest)
    return min(_MAX_GPU_TOKENS, max(_MIN_TOKENS, limit // per_token))


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
        before = devices.of(device).allocated()
        if before is None:
            with torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor):
                yield
        else:
            yield
            after = devices.of(device).allocated()
            assert after is not None
            self.bytes += max(0, after - before)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._counted and address not in self._shared:
            self._counted.add(address)
            self.bytes += storage.nbytes()
        # Not the tensor itself: an operation may save its own output, which may never reach the loss (BERT's pooler).
        # Graph and output would then refer to each other, a cycle in C++ that no garbage collector finds.
        return tensor.detach()


def ran_out(longest: int) -> MemoryRanOut:
    """Return the error for a step that cannot be made smaller; `longest` is the number of tokens of an item."""
    what = f"Memory ran out, although micro-batches are as small as can be: the longest item has {longest} tokens."
    advice = "Use a smaller data.max_length, data.batch_size or model, or tuning=lora, or close other programs."
    return MemoryRanOut(what, advice)


def ran_out_in_update(step: int) -> MemoryRanOut:
    """Return the error for an optimizer that has no memory for its states or its results, in step `step`."""
    what = f"Memory ran out in the optimizer, in step {step}: weights, gradients and optimizer states do not fit."
    advice = "Resume with more free memory, or start again with tuning=lora, optimizer=adafactor or a smaller model;"
    return MemoryRanOut(what, f"{advice} engine.token_budget has no effect on this.")


def tune_malloc() -> None:
    """Let the C library keep freed memory for the next tensor, instead of returning it to the system each time.

    A step allocates the same tensors again and again, and pages that are new to the process cost as much as the
    computation on them. Only glibc has the setting; elsewhere this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
