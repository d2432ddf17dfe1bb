"""What depends on the kind of device: its memory, copies to it, its clock and its random numbers.

`of(device)` returns the operations for a `torch.device`; no other module has to ask which kind it is for these.
"""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from finetune.host_memory import available_memory

_UNKNOWN_MEMORY = 2**32  # assumed to be available where the system does not report it


class TensorGroup(Protocol):
    """Tensors that belong together, such as a batch."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Any:
        """Return the same group with `function` applied to each tensor."""


Group = TypeVar("Group", bound=TensorGroup)


class Device:
    """The operations for a CPU, and for every other kind of device that has none of its own."""

    has_own_memory: ClassVar[bool] = False  # which no other program needs; if not, it is main memory

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cpu = device.type == "cpu"

    # ---- memory, in bytes

    def available(self) -> int:
        """Return what this process can still allocate, as far as the system reports it."""
        available = available_memory()
        return _UNKNOWN_MEMORY if available is None else available

    def peak(self) -> int:
        """Return the maximum that this process has used."""
        maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS, in KB elsewhere
        return maximum if sys.platform == "darwin" else maximum * 1024

    def allocated(self) -> int | None:
        """Return what tensors use now; None where torch does not count it."""
        return None

    def reserved(self) -> int | None:
        """Return what torch's allocator has taken from the device; None where torch does not count it."""
        return None

    def release(self) -> None:
        """Free what torch keeps of an operation for which memory ran out."""
        # Autograd refers to the graph of a failed backward pass until the next one in the same thread.
        with torch.inference_mode(mode=False), torch.enable_grad():
            torch.zeros((), requires_grad=True).backward()  # type: ignore[no-untyped-call]

    # ---- copies

    def upload(self, values: npt.NDArray[Any]) -> Tensor:
        """Copy an array to the device, without synchronization."""
        return torch.from_numpy(values).to(self.device)

    def copy(self, group: Group) -> Group:
        """Copy tensors of the CPU to the device, without synchronization, while it still computes."""
        copied: Group = group.map(lambda tensor: tensor.to(self.device))
        return copied

    # ---- time

    def now(self) -> Any:
        """Return the time at which the device has done everything that was queued so far, without waiting for it."""
        return time.perf_counter()

    def seconds_between(self, start: Any, end: Any) -> float:
        """Return the seconds between two times of `now`, after `synchronize`."""
        return float(end - start)

    def synchronize(self) -> None:
        """Wait until the device has done everything that was queued."""

    # ---- random numbers, for dropout

    def random_state(self) -> dict[str, Tensor]:
        """Return the states of torch's generators of the CPU and of the device, for `set_random_state`."""
        return {"cpu": torch.get_rng_state()}

    # ---- properties

    def name(self) -> str:
        """Return the name of the product, or else that of the device."""
        return str(self.device)

    def has_bf16(self) -> bool:
        """Whether there are instructions for matrix products in bf16."""
        if self.device.type != "cpu":
            return False
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class Cuda(Device):
    """The operations for a GPU. Work is queued in its stream; waiting for it costs its time."""

    has_own_memory = True

    @functools.cached_property
    def _copies(self) -> torch.cuda.Stream:
        """The stream of copies, which run while the device computes."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def available(self) -> int:
        """Return what this process can still allocate.

        The allocator keeps freed memory. It can use whole free blocks for any tensor, but not the free parts of blocks
        that are still in use.
        """
        free, _ = torch.cuda.mem_get_info(self.device)
        stats = torch.cuda.memory_stats(self.device)
        reserved, allocated, fragmented = (
            stats.get(f"{name}_bytes.all.current", 0) for name in ("reserved", "allocated", "inactive_split")
        )
        return int(free + reserved - allocated - fragmented)

    def peak(self) -> int:
        """Return the maximum that tensors have used."""
        return torch.cuda.max_memory_allocated(self.device)

    def allocated(self) -> int:
        """Return what tensors use now."""
        return torch.cuda.memory_allocated(self.device)

    def reserved(self) -> int:
        """Return what torch's allocator has taken from the device."""
        return torch.cuda.memory_reserved(self.device)

    def release(self) -> None:
        """Free what torch keeps of an operation for which memory ran out, and return free blocks to the device."""
        super().release()
        torch.cuda.empty_cache()

    def upload(self, values: npt.NDArray[Any]) -> Tensor:
        """Copy an array to the device, without synchronization."""
        # A copy from pageable memory would wait for all work queued on the device.
        return torch.from_numpy(values).pin_memory().to(self.device, non_blocking=True)

    def copy(self, group: Group) -> Group:
        """Copy tensors of the CPU in a stream of their own, so that the copy runs while the last step is computed."""
        with torch.cuda.stream(self._copies):
            copied: Group = group.map(lambda tensor: tensor.pin_memory().to(self.device, non_blocking=True))
        computation = torch.cuda.current_stream(self.device)
        computation.wait_stream(self._copies)

        def keep_until_used(tensor: Tensor) -> Tensor:
            # The memory belongs to the stream of copies, which would reuse it before the computation has read it.
            tensor.record_stream(computation)
            return tensor

        copied.map(keep_until_used)
        return copied

    def now(self) -> torch.cuda.Event:
        """Return an event in the queue of the device."""
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds_between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Return the seconds between two events, after `synchronize`."""
        return float(start.elapsed_time(end)) / 1000

    def synchronize(self) -> None:
        """Wait until the device has done everything that was queued."""
        torch.cuda.synchronize(self.device)

    def random_state(self) -> dict[str, Tensor]:
        """Return the states of both generators; that of the device is a seed and a counter: this does not wait."""
        return {**super().random_state(), "cuda": torch.cuda.get_rng_state(self.device)}

    def name(self) -> str:
        """Return the name of the product."""
        return torch.cuda.get_device_name(self.device)

    def uuid(self) -> str:
        """Return the identifier by which NVML finds the device."""
        return f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"

    def has_bf16(self) -> bool:
        """Whether there are instructions for matrix products in bf16."""
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@functools.cache
def of(device: torch.device) -> Device:
    """Return the operations for a device."""
    if device.type == "cuda":
        return Cuda(device)
    return Device(device)


def choose(accelerator: str) -> torch.device:
    """Return the first device of an accelerator; `auto` is the fastest that is available."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Set torch's generators to a state of `Device.random_state`; that of a device that is not here is left out."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
