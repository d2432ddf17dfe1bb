"""What torch asks the CUDA runtime, answered without one: `torch.cuda`, and two tables in C++ of a CPU build.

The autograd engine asks C++ objects about streams and devices, which a build without CUDA does not have. Torch itself
has a device guard that does nothing, for tracing without a GPU, but registers it in a CUDA build only; and the answer
to "is there an accelerator" is a virtual method. Both are set here through `ctypes`, and restored afterwards. It works
with the C++ ABI of Linux; a change of torch's tables fails in `patched_runtime`, not somewhere else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

MEMORY = 2**30  # bytes of the device
CAPABILITY = (9, 0)  # of a H200

_LIBRARIES = Path(torch.__file__).parent / "lib"
_CUDA = 1  # its number among the device types
# Positions of two methods in the table of at::AcceleratorHooksInterface, after two entries for its destructor.
_IS_BUILT, _HAS_PRIMARY_CONTEXT = 2, 4
_METHODS = 64  # at least as many as the tables have


@contextmanager
def patched_runtime(wait: Callable[[str], None]) -> Iterator[None]:
    """Let torch find one CUDA device; `wait` is called with the name of a function that waits for the device."""
    with ExitStack() as stack:
        stack.enter_context(_device_guard())
        stack.enter_context(_accelerator_hooks())
        if torch.accelerator.current_accelerator() != torch.device("cuda"):
            raise RuntimeError("torch has changed at::AcceleratorHooksInterface: adapt tests/devices/cuda_runtime.py")
        # In this thread, where the dispatch mode is active.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_conversions())
        for name, value in _cuda_functions(wait).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        yield


@contextmanager
def _conversions() -> Iterator[None]:
    """Let torch convert parameters and numbers by operators that a dispatch mode sees."""
    swap, lift = torch.__future__.get_swap_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
    # A parameter that is moved keeps its identity, and becomes a tensor of the other class.
    torch.__future__.set_swap_module_params_on_conversion(True)
    # `torch.tensor(..., device="cuda")` makes a tensor on the CPU and copies it.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
        torch.__future__.set_swap_module_params_on_conversion(swap)


@contextmanager
def _device_guard() -> Iterator[None]:
    """Register torch's device guard that does nothing."""
    library = ctypes.CDLL(str(_LIBRARIES / "libc10.so"))
    registry = (ctypes.c_void_p * 8).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before = registry[_CUDA]
    # `_ensureCUDADeviceGuardSet` replaces a guard that has no devices: here an object all of whose methods return 0.
    zero = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
    address = ctypes.cast(zero, ctypes.c_void_p).value
    table = (ctypes.c_void_p * _METHODS)(*[address] * _METHODS)
    guard = ctypes.c_void_p(ctypes.addressof(table))
    registry[_CUDA] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
    try:
        if registry[_CUDA] == ctypes.addressof(guard):
            raise RuntimeError("torch has changed its device guards: adapt tests/devices/cuda_runtime.py")
        yield
    finally:
        registry[_CUDA] = before


@contextmanager
def _accelerator_hooks() -> Iterator[None]:
    """Let torch's object for questions to CUDA say that it is built, and that no device is in use by this process."""
    get_hooks: Any = ctypes.CDLL(str(_LIBRARIES / "libtorch_cpu.so"))["_ZN2at6detail12getCUDAHooksEv"]
    get_hooks.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(get_hooks())
    before = hooks.value
    assert before is not None
    table = (ctypes.c_void_p * _METHODS).from_buffer_copy((ctypes.c_void_p * _METHODS).from_address(before))
    method = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
    is_built, has_context = method(lambda _: True), method(lambda _: False)
    table[_IS_BUILT] = ctypes.cast(is_built, ctypes.c_void_p).value
    table[_HAS_PRIMARY_CONTEXT] = ctypes.cast(has_context, ctypes.c_void_p).value
    hooks.value = ctypes.addressof(table)
    try:
        yield
    finally:
        hooks.value = before


def _cuda_functions(wait: Callable[[str], None]) -> dict[str, Any]:
    """Return the functions of `torch.cuda` for one device."""
    properties = SimpleNamespace(name="fake", total_memory=MEMORY, major=CAPABILITY[0], minor=CAPABILITY[1])
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: wait("synchronize"),
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: properties.name,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "empty_cache": lambda: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "memory_stats": lambda device=None: {},
        "Event": Event,
        "Stream": Stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: Stream(device),
    }


class Stream(torch.Stream):
    """A queue of the device, which is always empty."""

    def __new__(cls, device: Any = None) -> Stream:
        return super().__new__(cls, device=torch.device("cpu"))

    def wait_stream(self, stream: Stream) -> None:
        """Wait for another queue."""


class Event:
    """An event in the queue of the device, which is always done."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.enable_timing = enable_timing

    def record(self, stream: Any = None) -> None:
        """Add the event to the queue."""

    def synchronize(self) -> None:
        """Wait for the event."""

    def elapsed_time(self, end: Event) -> float:
        """Return the milliseconds to another event."""
        return 1.0
