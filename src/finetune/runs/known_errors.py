"""What errors of CUDA, NCCL and gloo mean, by their texts: most of them have one type, RuntimeError.

The texts are those of torch's `NCCLUtils.cpp`, `ProcessGroupNCCL.cpp` and `c10/cuda`, of NCCL's `bootstrap.cc`,
`init.cc`, `socket.cc` and `net_ib.cc`, of gloo's `transport/tcp`, and of cudaGetErrorString.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

KnownCause = Literal["out of memory", "gpu", "network", "node lost", "timeout", "error"]

# Errors of torch.distributed, by name, because this package does not import torch.
_DISTRIBUTED_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")
_DISTRIBUTED_TEXT = re.compile(r"nccl|gloo|process ?group|remote worker|c10d", re.IGNORECASE)
_GPU_TEXT = re.compile(r"cuda|nccl|cudnn|cublas|nvidia", re.IGNORECASE)
_LONGEST_DETAIL = 200  # characters


@dataclass(frozen=True)
class KnownError:
    """An error by its text: its cause, what is wrong, what to do about it.

    `is_secondary`: it may only be the consequence of the end of another process. `is_bug`: its traceback is needed.
    """

    pattern: re.Pattern[str]
    cause: KnownCause
    what: str
    advice: str
    is_secondary: bool = False
    is_bug: bool = False


def _known(
    pattern: str, cause: KnownCause, what: str, advice: str, *, is_secondary: bool = False, is_bug: bool = False
) -> KnownError:
    return KnownError(re.compile(pattern, re.IGNORECASE), cause, what, advice, is_secondary, is_bug)


_REPORT = "Resume the run on another machine, and report this one: `nvidia-smi -q` and `dmesg | grep Xid` have details."
_LATER = "CUDA reports errors late: start the run again with CUDA_LAUNCH_BLOCKING=1 to see the operation that failed."
_DETAILS = "Start the run again with NCCL_DEBUG=WARN: NCCL then prints the call that failed."

# Of CUDA, also where NCCL reports them; the first match counts.
_GPU = (
    _known(
        r"uncorrectable ECC|uncorrectable NVLink|GPU is lost|fallen off the bus|hardware stack error",
        "gpu", "A GPU has a hardware error", _REPORT,
    ),
    _known(
        r"device-side assert triggered", "error",
        "A check in a GPU kernel failed, usually that of an index: a token id, a class or a row that does not exist",
        f"trainer.accelerator=cpu shows which. {_LATER}", is_bug=True,
    ),
    _known(
        r"illegal memory access|misaligned address|illegal instruction|unspecified launch failure", "error",
        "A GPU kernel accessed memory that is not its own", _LATER, is_bug=True,
    ),
    _known(
        r"driver version is insufficient|driver on your system is too old|forward compatibility was attempted|"
        r"system has unsupported display driver|driver/library version mismatch",
        "gpu", "The NVIDIA driver does not fit this build of torch",
        "Update the driver, or install a torch that was built for the CUDA version that `nvidia-smi` prints.",
    ),
    _known(
        r"no kernel image is available|unsupported toolchain", "gpu", "This build of torch has no code for this GPU",
        "Install one that was built for it: `torch.cuda.get_arch_list()` must include its compute capability.",
    ),
    _known(
        r"Duplicate GPU detected", "gpu", "Two processes of the run use the same GPU",
        "Set trainer.devices to the number of GPUs, and let CUDA_VISIBLE_DEVICES list as many.",
    ),
    _known(
        r"invalid device ordinal|no CUDA-capable device", "gpu", "The run needs a GPU that does not exist",
        "Set trainer.devices to the number of GPUs that `nvidia-smi` and CUDA_VISIBLE_DEVICES list.",
    ),
    _known(
        r"busy or unavailable", "gpu",
        "A GPU of the run is in use by another program",
        "`nvidia-smi` shows by which; choose others with CUDA_VISIBLE_DEVICES.",
    ),
    _known(
        r"Cuda failure.{0,9}out of memory|STATUS_NOT_INITIALIZED", "out of memory",
        "A GPU has no memory left for its libraries",
        "Use a smaller engine.activation_mb or engine.token_budget, or end other programs on this GPU.",
    ),
)  # fmt: skip

# Of NCCL, gloo and torch's store: only looked for in errors of torch.distributed.
_CONNECTION = (
    _known(
        r"no socket interface found|interface found|neither AF_INET|address family not supported", "network",
        "NCCL found no network interface to connect the processes",
        "Unset NCCL_SOCKET_IFNAME, or set it to an interface that `ip -br addr` lists on every machine.",
    ),
    _known(
        r"shared memory|/dev/shm|shm_open|No space left on device", "out of memory",
        "NCCL ran out of shared memory",
        "Enlarge /dev/shm (docker run --shm-size=1g), or set NCCL_SHM_DISABLE=1, which is slower.",
    ),
    _known(
        r"Call to ibv_|ibv_\w+ failed", "network", "InfiniBand failed",
        "Check that `ulimit -l` is unlimited and what `ibstat` prints. NCCL_IB_DISABLE=1 uses TCP, which is slower.",
    ),
    _known(
        r"timed? ?out|timeout", "timeout", "A process of the run waited too long for the others",
        "If they need that long, increase collective_timeout; else find out why one of them does not continue.",
        is_secondary=True,
    ),
    _known(
        r"ncclRemoteError|remote process exit|closed by remote peer|remote worker|closed by|reset by|broken pipe|"
        r"connection (?:refused|aborted|was likely closed)|socket (?:closed|error)|Got completion from peer|"
        r"communicator was aborted|unreachable|no route to host",
        "node lost", "Another process of the run ended, or the network to its machine failed",
        "Look for its own error in the output of the other processes.", is_secondary=True,
    ),
    _known(
        r"ncclSystemError|unhandled system error", "network", "A system call of NCCL failed", _DETAILS,
        is_secondary=True,
    ),
    _known(
        r"ncclUnhandledCudaError|unhandled cuda error", "gpu", "A CUDA call of NCCL failed", _DETAILS,
        is_secondary=True,
    ),
    _known(
        r"ncclInvalidUsage|ncclInvalidArgument", "error", "NCCL was called in a way that it does not support",
        _DETAILS, is_bug=True,
    ),
    _known(
        r"ncclInternalError", "error", "NCCL failed in a check of its own", _DETAILS, is_secondary=True,
    ),
)  # fmt: skip


def find_known_error(error: BaseException) -> KnownError | None:
    """Return what an error of CUDA, NCCL or gloo means; None for all others."""
    if not isinstance(error, RuntimeError | ConnectionError):
        return None
    text = str(error)
    tables: list[KnownError] = []
    if _GPU_TEXT.search(text):
        tables += _GPU
    if is_distributed(error):
        tables += _CONNECTION
    return next((known for known in tables if known.pattern.search(text)), None)


def is_distributed(error: BaseException) -> bool:
    """Return whether torch.distributed or one of its backends raised an error."""
    return type(error).__name__ in _DISTRIBUTED_TYPES or (
        isinstance(error, RuntimeError | ConnectionError) and _DISTRIBUTED_TEXT.search(str(error)) is not None
    )


def detail(error: BaseException) -> str:
    """Return the line of an error that says most: NCCL's last error, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line, following in pairwise(lines):
        if line == "Last error:":
            return following[:_LONGEST_DETAIL]
    return lines[0][:_LONGEST_DETAIL] if lines else type(error).__name__
