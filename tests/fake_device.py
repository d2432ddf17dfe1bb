"""A device with 1 GB, whose tensors are those of the CPU: a storage counts from when an operator makes it until it is
freed.
"""

import contextlib
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune import devices

GB = 2**30
SMALL = 64  # bytes: smaller tensors are not counted, as CUDA's allocator has room for them in blocks of 2 MB


def torch_error():
    """Return the error of torch's allocator. A new one each time: a traceback refers to what was computed."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")


class FakeDevice(devices.Device, TorchDispatchMode):
    """Counts while it is entered, and lets memory run out where it really would, or at chosen allocations.

    `others` are bytes in use by other programs. `fail_at` are the numbers of allocations, from 0, that raise `error()`,
    `made` is the number of allocations so far. `released` is what was in use after each `release`.
    """

    has_own_memory = True

    def __init__(self, capacity=GB, others=0, fail_at=(), error=torch_error):
        devices.Device.__init__(self, torch.device("cpu"))
        TorchDispatchMode.__init__(self)
        self.is_cpu = False
        self.capacity, self.others, self.fail_at = capacity, others, set(fail_at)
        self.error = error
        self.in_use = self.highest = 0
        self.made = -GB  # none has a number before `start`
        self.released = []
        self._known = set()

    def available(self):
        return self.capacity - self.others - self.in_use

    def allocated(self):
        return self.in_use

    def reserved(self):
        return self.in_use

    def peak(self):
        return self.highest

    def release(self):
        super().release()
        self.released.append(self.in_use)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def start(self):
        """Count allocations from 0 on."""
        self.made = 0

    def add(self, module):
        """Count the weights of a module."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._add(tensor.untyped_storage())

    def _add(self, storage):
        key = storage._cdata
        if key in self._known:
            return
        if storage.nbytes() >= SMALL:
            number, self.made = self.made, self.made + 1
            if number in self.fail_at or storage.nbytes() > self.available():
                raise self.error()
        self._known.add(key)
        weakref.finalize(storage, self._free, key, storage.nbytes())
        self.in_use += storage.nbytes()
        self.highest = max(self.highest, self.in_use)

    def _free(self, key, size):
        self._known.discard(key)
        self.in_use -= size


@contextlib.contextmanager
def installed(monkeypatch, fake):
    """Let all code take the CPU for the fake device."""
    with monkeypatch.context() as patch:
        patch.setattr(devices, "of", lambda device: fake)
        yield fake
