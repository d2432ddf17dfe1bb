"""A CUDA device without a GPU: tensors that are on `cuda:0` for torch, and whose values are computed on the CPU.

`FakeCuda` is a context in which code runs as on a GPU: `tensor.device.type` is `cuda`, autocast and autograd use the
paths of CUDA, and `torch.cuda` reports one device. Every operator goes through `FakeCuda.__torch_dispatch__`, which

- raises where CUDA raises, for operands on different devices,
- records every operator for which the host waits for the device (`FakeCuda.syncs`), also a hidden copy: that of an
  index on the CPU into a CUDA tensor,
- lets `torch._subclasses.FakeTensorMode` check the device of the result, once per operator and devices of operands; an
  operator that it cannot run raises, unless it is named below.

Unlike the fake tensors of torch, these have values: losses, gradients and metrics can be compared with those of the
CPU, and code that reads a value runs to its end, so that one test shows all synchronizations.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import finetune
from tests.devices import kernels
from tests.devices.cuda_runtime import CAPABILITY, patched_runtime
from tests.models.varlen_stand_in import StandIn
from tests.models.varlen_stand_in import kernels as attention_kernels

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

_SOURCE = Path(finetune.__file__).parent
_aten = torch.ops.aten

# Operators whose CUDA kernels wait for the device: the shape of their result, or a value, depends on data.
_WAITING = frozenset(
    {
        _aten._local_scalar_dense,
        _aten.nonzero,
        _aten.masked_select,
        _aten._unique,
        _aten._unique2,
        _aten.unique_dim,
        _aten.unique_consecutive,
        _aten.unique_dim_consecutive,
        _aten.bincount,
        _aten.equal,
        _aten.is_nonzero,
        _aten._linalg_eigh,
        _aten._linalg_svd,
        _aten._linalg_check_errors,
        _aten.histogram,
        _aten.multinomial,
    }
)
_INDEXING = frozenset({_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index})
_COPIES = frozenset({_aten._to_copy, _aten.copy_})
# They have kernels for both devices and no fake implementation: their device is not compared with FakeTensorMode.
_WITHOUT_FAKE = frozenset({_aten._fused_sgd_, _aten._fused_adagrad_, _aten.record_stream})


class MixedDevices(RuntimeError):
    """An operator got tensors of both devices."""


class Sync(NamedTuple):
    """An operator that waits for the device, and the function of finetune that called it, as `package/module:name`."""

    operator: str
    where: str


class CudaTensor(torch.Tensor):
    """A tensor on `cuda:0`, whose values are in `host`, a tensor on the CPU of the same shape and strides."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> CudaTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CUDA,
        )

    def __init__(self, host: Tensor) -> None:
        self.host = host

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of a CudaTensor outside of FakeCuda")

    @property
    def data(self) -> Tensor:
        """The tensor without its graph; assigning replaces the values."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, CudaTensor), "moves a parameter to the CPU by an assignment to `data`"
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.host = value.host

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def tolist(self) -> Any:
        FakeCuda.current().record("tolist")
        return self.host.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Save the values; of a real CUDA tensor a checkpoint holds the device too."""
        FakeCuda.current().record("save")
        return self.host.detach().__reduce_ex__(protocol)

    def __repr__(self, **kwargs: Any) -> str:
        return f"CudaTensor({self.host!r})"


class FakeCuda(TorchDispatchMode):
    """Runs code on the device of this module."""

    _checked: ClassVar[set[Any]] = set()  # operators and devices that it was asked about
    _current: ClassVar[FakeCuda | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[Sync] = []
        self.copies = 0  # from the CPU to the device, pinned and non-blocking
        self._pinned: set[int] = set()
        self._keep: list[Tensor] = []  # a storage that is freed would give its address to another tensor
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    @classmethod
    def current(cls) -> FakeCuda:
        """Return the active mode."""
        assert cls._current is not None
        return cls._current

    @classmethod
    @contextmanager
    def active(cls) -> Iterator[FakeCuda]:
        """Run the `with` block on the device."""
        assert cls._current is None
        mode = cls._current = cls()
        try:
            with patched_runtime(mode.record), attention_kernels(StandIn(capability=CAPABILITY)), mode:
                yield mode
        finally:
            cls._current = None

    @contextmanager
    def recording(self) -> Iterator[list[Sync]]:
        """Collect the synchronizations of the `with` block alone."""
        start, found = len(self.syncs), []
        yield found
        found.extend(self.syncs[start:])

    def record(self, operator: str) -> None:
        """Add a synchronization by the code that runs now."""
        self.syncs.append(Sync(operator, _caller()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if packet in (_aten.pin_memory, _aten._pin_memory):
            return self._pin(args[0])
        if packet is _aten.is_pinned:
            return args[0].untyped_storage().data_ptr() in self._pinned
        on_cuda = any(isinstance(tensor, CudaTensor) for tensor in tensors)
        target = _device_argument(kwargs)
        if not on_cuda and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        if func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):
            with self:  # in inference mode torch does not split it into the operators that are checked here
                return func.decompose(*args, **kwargs)
        if packet in _COPIES:
            self._check_copy(packet, args, kwargs, target)
        else:
            self._check_operands(func, args, kwargs, tensors)
        output_on_cuda = _output_device(packet, args, target, on_cuda).type == "cuda"
        self._compare_with_fake(func, args, kwargs, output_on_cuda)
        return self._run(func, args, kwargs, output_on_cuda)

    def _pin(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, CudaTensor):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        pinned = tensor.clone(memory_format=torch.contiguous_format)
        self._pinned.add(pinned.untyped_storage().data_ptr())
        self._keep.append(pinned)
        return pinned

    def _check_copy(self, packet: Any, args: Any, kwargs: Mapping[str, Any], target: torch.device | None) -> None:
        """Record a copy between devices, unless it is from pinned memory to the device and does not block."""
        if packet is _aten.copy_:
            to_cuda, source = isinstance(args[0], CudaTensor), args[1]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source, non_blocking = args[0], kwargs.get("non_blocking", False)
            to_cuda = isinstance(source, CudaTensor) if target is None else target.type == "cuda"
        from_cuda = isinstance(source, CudaTensor)
        if to_cuda == from_cuda:
            return
        if from_cuda:
            self.record("copy to the CPU")
        elif non_blocking and source.untyped_storage().data_ptr() in self._pinned:
            self.copies += 1
        else:
            self.record("copy from pageable memory" if non_blocking else "blocking copy to the device")

    def _check_operands(self, func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> None:
        packet = func.overloadpacket
        on_cpu = [tensor for tensor in tensors if not isinstance(tensor, CudaTensor)]
        if packet in _INDEXING:
            indices = [index for index in args[1] if index is not None]
            if not isinstance(args[0], CudaTensor):
                raise MixedDevices(f"{func}: an index on CUDA into a tensor on the CPU, in {_caller()}")
            if any(not isinstance(index, CudaTensor) for index in indices):
                self.record(f"{packet.__name__} by an index on the CPU")
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.record(f"{packet.__name__} with a mask")
        # CUDA takes a CPU tensor without dimensions for a number.
        elif any(tensor.ndim for tensor in on_cpu):
            raise MixedDevices(f"{func}: tensors on the CPU and on CUDA, in {_caller()}")
        if packet in _WAITING:
            self.record(packet.__name__)
        if packet is _aten.repeat_interleave and kwargs.get("output_size") is None:
            self.record("repeat_interleave without output_size")
        if packet is _aten.segment_reduce and not kwargs.get("unsafe"):
            self.record("segment_reduce with a check")

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any], output_on_cuda: bool) -> Any:
        """Compute with the values on the CPU."""
        hosts: dict[int, CudaTensor] = {}

        def to_host(leaf: Any) -> Any:
            if isinstance(leaf, CudaTensor):
                hosts[id(leaf.host)] = leaf
                return leaf.host
            if isinstance(leaf, torch.device) and leaf.type == "cuda":
                return CPU
            return leaf

        host_args, host_kwargs = tree_map(to_host, (args, kwargs))
        if func.overloadpacket is _aten._fused_sdp_choice:
            return 0  # the one of plain operators, which are computed here
        if func.overloadpacket is _aten._to_copy:
            host_kwargs.pop("non_blocking", None)
            host_kwargs.pop("pin_memory", None)
        out = kernels.OPERATORS.get(func.name(), func)(*host_args, **host_kwargs)

        def to_device(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or isinstance(leaf, CudaTensor):
                return leaf
            if id(leaf) in hosts:  # an operator in place returns its operand
                return hosts[id(leaf)]
            if not output_on_cuda and any(leaf is tensor.host for tensor in hosts.values()):
                return leaf.clone()
            return CudaTensor(leaf) if output_on_cuda else leaf

        # In inference mode a view of an ordinary tensor is an ordinary one.
        of_ordinary = func.is_view and not any(tensor.is_inference() for tensor in hosts.values())
        with torch.inference_mode(torch.is_inference_mode_enabled() and not of_ordinary):
            return tree_map(to_device, out)

    def _compare_with_fake(self, func: Any, args: Any, kwargs: dict[str, Any], output_on_cuda: bool) -> None:
        """Check, once per operator and devices of its operands, that FakeTensorMode comes to the same device."""
        key = func, *_devices((args, kwargs))
        if key in self._checked or func.overloadpacket in _WAITING | _WITHOUT_FAKE:
            return
        self._checked.add(key)

        def to_fake(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            device = CUDA if isinstance(leaf, CudaTensor) else CPU
            return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device=device)

        try:
            with torch.no_grad(), self._fake:
                fake_args, fake_kwargs = tree_map(to_fake, (args, kwargs))
                out = func(*fake_args, **fake_kwargs)
        except DynamicOutputShapeException:  # a mask as an index, which is recorded
            return
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (leaf.device.type == "cuda") != output_on_cuda:
                raise AssertionError(f"{func}: FakeTensorMode says {leaf.device}")


def _devices(tree: Any) -> Iterator[Any]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.device.type, leaf.ndim == 0, leaf.dtype
        elif isinstance(leaf, torch.device):
            yield leaf.type


def _device_argument(kwargs: Mapping[str, Any]) -> torch.device | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device)


def _output_device(packet: Any, args: Any, target: torch.device | None, on_cuda: bool) -> torch.device:
    if target is not None:
        return target
    if packet is _aten.copy_:
        return args[0].device
    return CUDA if on_cuda else CPU


def _caller() -> str:
    """Return the innermost function of finetune that is running, or else the innermost of all."""
    frame: types.FrameType | None = sys._getframe(1)
    outermost = "?"
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_SOURCE):
            return f"{path.relative_to(_SOURCE).with_suffix('')}:{frame.f_code.co_name}"
        if outermost == "?" and "torch/_" not in str(path) and path.name != Path(__file__).name:
            outermost = f"{path.parent.name}/{path.stem}:{frame.f_code.co_name}"
        frame = frame.f_back
    return outermost
